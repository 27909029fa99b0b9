#!/bin/sh
# The programs that tests talk to: installed when root on Debian, else named.
set -eu
need=""
command -v dcmsend >/dev/null 2>&1 && command -v dsrdump >/dev/null 2>&1 || need="$need dcmtk"
command -v Orthanc >/dev/null 2>&1 || need="$need orthanc"
ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so >/dev/null 2>&1 || need="$need orthanc-dicomweb"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 \
  || need="$need postgresql"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || need="$need faketime"
command -v pdftotext >/dev/null 2>&1 || need="$need poppler-utils"
command -v chromium >/dev/null 2>&1 || need="$need chromium"
# Fetches the scripts of others that pages load.
command -v npm >/dev/null 2>&1 || need="$need npm"
# The validator of structured reports, and the compiler that starts our loop over it.
[ -f /usr/share/java/pixelmed.jar ] && command -v javac >/dev/null 2>&1 \
  || need="$need pixelmed-apps default-jdk-headless"
# promtool, which judges the alert rules.
command -v promtool >/dev/null 2>&1 || need="$need prometheus"
# Judges of what deploy/ has: units and scripts.
command -v systemd-analyze >/dev/null 2>&1 || need="$need systemd"
command -v shellcheck >/dev/null 2>&1 || need="$need shellcheck"
command -v lintian >/dev/null 2>&1 || need="$need lintian"
# A syslog server over TLS, which takes audit messages.
command -v rsyslogd >/dev/null 2>&1 && ls /usr/lib/*/rsyslog/lmnsd_gtls.so >/dev/null 2>&1 \
  || need="$need rsyslog rsyslog-gnutls"
[ -z "$need" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  apt-get update -qq
  # policy-rc.d: the packages' own servers must not start, the tests start theirs.
  # shellcheck disable=SC2086  # A list of names.
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $need >/dev/null
else
  echo "missing for the tests:$need (install with: sudo apt-get install$need)" >&2
  [ -z "${QC_REQUIRE_ALL:-}" ] || exit 1
fi
