#!/bin/sh
# Writes dist/qc-daemon_VERSION_amd64.deb: `make deb`. The folder can be given as an argument.
set -eu
SOURCE=$(cd "$(dirname "$0")/../.." && pwd)
target=${1:-$SOURCE/dist}
cd "$SOURCE"
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
# The same commit gives the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"

share=$root/usr/share/qc-daemon
mkdir -p "$share" "$root/usr/bin" "$root/usr/lib/systemd/system" "$root/usr/share/doc/qc-daemon" "$root/DEBIAN"
for each in qc_daemon detector model training migrations deploy docs; do
  find "$each" -type f ! -path '*/__pycache__/*' ! -path 'docs/pictures/*' -exec cp --parents {} "$share" \;
done
cp pyproject.toml README.md LICENSE NOTICE "$share/"
rm -rf "$share/deploy/debian" "$share/deploy/system-tools.sh" "$share/deploy/make_sbom.sh"
find "$share" -type f -exec chmod 0644 {} +
chmod 0755 "$share/deploy/install.sh" "$share/deploy/qc-daemon" "$share/deploy/oci/build.sh" "$share/training"/*.sh
install -m 0755 deploy/qc-daemon "$root/usr/bin/qc-daemon"
install -m 0644 deploy/systemd/*.service "$root/usr/lib/systemd/system/"
install -m 0644 deploy/debian/copyright "$root/usr/share/doc/qc-daemon/"
gzip -9 -n -c CHANGELOG.md > "$root/usr/share/doc/qc-daemon/CHANGELOG.md.gz"
printf 'qc-daemon (%s) stable; urgency=medium\n\n  * CHANGELOG.md.gz in this folder has what is new.\n\n -- %s  %s\n' \
  "$VERSION" "$(sed -n 's/^Maintainer: //p' deploy/debian/control.in)" "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" \
  | gzip -9 -n > "$root/usr/share/doc/qc-daemon/changelog.gz"
install -D -m 0644 deploy/debian/lintian-overrides "$root/usr/share/lintian/overrides/qc-daemon"

size=$(du -sk "$root/usr" | cut -f1)
sed -e "s/@VERSION@/$VERSION/" -e "s/@SIZE@/$size/" deploy/debian/control.in > "$root/DEBIAN/control"
install -m 0755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN/"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mkdir -p "$target"
dpkg-deb --root-owner-group --build "$root" "$target/qc-daemon_${VERSION}_amd64.deb"
