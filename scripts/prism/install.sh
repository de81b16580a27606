#!/usr/bin/env bash
# Build Prism, Beam's portable runner in Go, from its module into .venvs/prism. Go checks each module against go.sum's
# checksum database; the digest of the program depends on the Go release, so it is printed, not pinned. Needs: Go 1.26+.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${MILLCERT_PRISM_HOME:-$here/../../.venvs/prism}
version=v2.77.0
command -v go >/dev/null || { echo "prism: go is missing; install it and run again" >&2; exit 2; }
mkdir -p "$home"
home=$(cd "$home" && pwd)
[[ -x $home/prism ]] || CGO_ENABLED=0 GOBIN=$home go install -trimpath "github.com/apache/beam/sdks/v2/go/cmd/prism@$version"
echo "prism: --runner=PrismRunner --prism_location=$home/prism --prism_sha256=$(sha256sum "$home/prism" | cut -d' ' -f1)"
