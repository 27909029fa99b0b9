#!/bin/sh
# Writes dist/sbom.cdx.json: `make sbom`. What a host that scores gets, by name, version and hash (CycloneDX).
# Arguments: folder, and the Python that has uv.
set -eu
SOURCE=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-$SOURCE/dist}
python=${2:-$SOURCE/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target"
cat "$SOURCE/deploy/requirements/service.lock" "$SOURCE/deploy/requirements/models.lock" > "$work/requirements.txt"
# In an environment of its own: the generator is no part of what it lists, nor of ours.
"$python" -m uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements "$work/requirements.txt" \
  --pyproject "$SOURCE/pyproject.toml" --output-reproducible --of JSON -o "$target/sbom.cdx.json" 2>"$work/errors" \
  || { cat "$work/errors" >&2; exit 1; }
