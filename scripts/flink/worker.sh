#!/usr/bin/env bash
# The command of --environment_type=PROCESS: start one Beam worker in the installation of $MILLCERT_PYTHON.
# --environment_config='{"command": "/path/to/scripts/flink/worker.sh", "env": {"MILLCERT_PYTHON": "/path/to/python"}}'
exec "${MILLCERT_PYTHON:-python3}" -m millcert.pipelines.boot "$@"
