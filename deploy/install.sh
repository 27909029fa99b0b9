#!/bin/sh
# Installs qc-daemon as a service on Debian 12 or 13 or Ubuntu 24.04, upgrades it, or takes it away.
# Run again it changes only what has changed. docs/install.md tells it step by step.
set -eu

BASE=/opt/qc-daemon          # libraries and releases; all of it can be made again
ETC=/etc/qc-daemon           # settings and secrets
STATE=/var/lib/qc-daemon     # database, received files, backups: patient data
CACHE=/var/cache/qc-daemon
ACCOUNT=qc-daemon
UNITS=/etc/systemd/system
COMMAND=/usr/local/bin/qc-daemon
ROLES="receive work deliver schedule web"
FIRST_METRICS_PORT=9404

usage() {
  cat <<'TEXT'
install.sh [OPTIONS]               as root; install, or upgrade what is there
install.sh --uninstall [--purge]   remove the programs; --purge: settings and all data, too

What runs here; an upgrade leaves it as it is
  --role ROLE         one unit a role; repeatable (receive, work, deliver, schedule, web); all: one unit, as at first
  --models            with PyTorch and CUDA, as at first
  --no-models         without PyTorch: for a host that does not score (needs --role, and not work)
  --cpu               PyTorch without CUDA (deploy/requirements/models-cpu.lock; see docs/install.md)
  --gpu               the units may use an NVIDIA GPU
  --wheels FOLDER     take the libraries from this folder and nothing from a network
  --no-start          install, but start nothing

First settings, written only if /etc/qc-daemon/qc-daemon.toml is not there
  --ae-title TITLE    our AE title (QCDAEMON)
  --host ADDRESS      address to receive on (0.0.0.0: all of this machine)
  --port PORT         port to receive on (11112)
  --peer AE@ADDRESS   a machine that may store, with its address or network; repeatable
  --pacs AE@HOST:PORT where reports go
  --database URL      instead of SQLite: postgresql+psycopg://USER@HOST/NAME
  --web-port PORT     pages, on this machine's own address
  --language LANG     of what people read: en, de or zh

  --yes               ask nothing
  --help              this
TEXT
}

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'error: %s\n' "$*" >&2; exit 2; }
value() {
  if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value; see --help"; fi
  printf '%s' "$2"
}
has_systemd() { [ -d /run/systemd/system ]; }

# ---- what is asked for

roles="" peers="" models="" gpu="" wheels="" start=yes yes="" uninstall="" purge="" package=""
ae_title="" host="" port="" pacs="" database="" web_port="" language=""
while [ $# -gt 0 ]; do
  case $1 in
    --role) role=$(value "$@"); shift
      case " $ROLES all " in *" $role "*) ;; *) wrong "--role $role: give one of $ROLES, or all" ;; esac
      roles="$roles $role" ;;
    --peer) peers="$peers $(value "$@")"; shift ;;
    --models) models=yes ;;
    --no-models) models=no ;;
    --cpu) models=cpu ;;
    --gpu) gpu=yes ;;
    --wheels) wheels=$(value "$@"); shift ;;
    --no-start) start="" ;;
    --ae-title) ae_title=$(value "$@"); shift ;;
    --host) host=$(value "$@"); shift ;;
    --port) port=$(value "$@"); shift ;;
    --pacs) pacs=$(value "$@"); shift ;;
    --database) database=$(value "$@"); shift ;;
    --web-port) web_port=$(value "$@"); shift ;;
    --language) language=$(value "$@"); shift ;;
    --yes) yes=yes ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    --from-package) package=yes yes=yes ;;  # By the Debian package, which brings units and command.
    --help|-h) usage; exit 0 ;;
    *) usage >&2; wrong "unknown option $1" ;;
  esac
  shift
done
[ -z "$purge" ] || [ -n "$uninstall" ] || wrong "--purge goes with --uninstall"
[ -t 0 ] || yes=yes

# What stands between quotes in the settings file is checked before anything is changed.
matches() {
  # grep looks at each line by itself.
  case $1 in *"
"*) return 1 ;; esac
  printf '%s' "$1" | grep -Eqx "$2"
}
AE='[A-Za-z0-9_.-]{1,16}'
check_port() {
  if ! matches "$2" '[0-9]{1,5}' || [ "$2" -lt 1 ] || [ "$2" -gt 65535 ]; then wrong "$1 $2: a port is 1 to 65535"; fi
}
check_answers() {
  [ -z "$ae_title" ] || matches "$ae_title" "$AE" || wrong "--ae-title $ae_title: 1 to 16 letters, digits, _ . and -"
  [ -z "$host" ] || matches "$host" '[A-Za-z0-9.:-]+' || wrong "--host $host: give an address of this machine"
  [ -z "$port" ] || check_port --port "$port"
  [ -z "$web_port" ] || check_port --web-port "$web_port"
  for each in $peers; do
    matches "$each" "$AE@[0-9A-Fa-f.:/]+" || wrong "--peer $each: give AE@ADDRESS, as VOLUSON1@10.1.0.0/16"
  done
  if [ -n "$pacs" ]; then
    matches "$pacs" "$AE@[A-Za-z0-9.-]+:[0-9]+" || wrong "--pacs $pacs: give AE@HOST:PORT, as PACS@10.1.0.5:104"
    check_port --pacs "${pacs##*:}"
  fi
  [ -z "$database" ] || matches "$database" '(postgresql\+psycopg|sqlite)://[^"\\[:space:]]+' \
    || wrong "--database: give sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
  case $language in ""|en|de|zh) ;; *) wrong "--language $language: give en, de or zh" ;; esac
}
check_answers
[ -n "$models" ] || models=$(cat "$BASE/current/models" 2>/dev/null) || models=yes
if [ "$models" = no ]; then
  case " $roles " in *" work "*|*" all "*) wrong "the role work needs the models: give --models, not --no-models" ;; esac
  [ -n "$roles" ] || [ -e "$BASE/current/models" ] || wrong "--no-models: name the roles of this host with --role, but not work"
fi

[ "$(id -u)" = 0 ] || wrong "run this as root: sudo sh $0"

# ---- taking it away

enabled_units() {
  for link in "$UNITS"/multi-user.target.wants/qc-daemon.service "$UNITS"/multi-user.target.wants/qc-daemon@*.service; do
    [ -L "$link" ] && basename "$link"
  done
  return 0
}

remove() {
  if [ -n "$purge" ] && [ -z "$yes" ]; then
    printf 'This removes %s and %s: settings, database, every received picture. Type purge to go on: ' "$ETC" "$STATE"
    read -r answer
    [ "$answer" = purge ] || fail "nothing was removed"
  fi
  [ -n "$purge" ] && [ ! -t 0 ] && say "removing settings and data, too (--purge)"
  for unit in $(enabled_units); do
    step "stopping $unit"
    if has_systemd; then systemctl disable --quiet --now "$unit"; else systemctl disable --quiet "$unit"; fi
  done
  rm -rf "$BASE" "$CACHE" "$COMMAND" "$UNITS/qc-daemon.service" "$UNITS/qc-daemon@.service" \
    "$UNITS/qc-daemon.service.d/gpu.conf" "$UNITS/qc-daemon@work.service.d/gpu.conf"
  rmdir "$UNITS/qc-daemon.service.d" "$UNITS/qc-daemon@work.service.d" 2>/dev/null || true
  ! has_systemd || systemctl daemon-reload
  if [ -n "$purge" ]; then
    rm -rf "$ETC" "$STATE"
    ! id "$ACCOUNT" >/dev/null 2>&1 || userdel "$ACCOUNT"
    say "qc-daemon is removed with its settings and data"
  else
    say "qc-daemon is removed; settings stay in $ETC, database and files in $STATE (--uninstall --purge removes them)"
  fi
}
if [ -n "$uninstall" ]; then remove; exit 0; fi

# ---- is this a host for it?

# shellcheck source=/dev/null
. /etc/os-release
case "${ID:-} ${VERSION_ID:-}" in
  "debian 12"|"debian 13"|"ubuntu 24.04") ;;
  *) wrong "this is ${PRETTY_NAME:-an unknown system}; it has to be Debian 12 or 13 or Ubuntu 24.04" ;;
esac
[ "$(uname -m)" = x86_64 ] || wrong "this is $(uname -m); the libraries are locked for x86_64"
[ -z "$wheels" ] || [ -d "$wheels" ] || wrong "--wheels $wheels: no such folder"
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd)
SOURCE=$(cd "$(dirname "$0")/.." && pwd)
for each in qc_daemon detector model training migrations pyproject.toml README.md; do
  [ -e "$SOURCE/$each" ] || fail "$SOURCE is not the whole of qc-daemon: $each is missing"
done

locks="$SOURCE/deploy/requirements/service.lock"
case $models in
  yes) locks="$locks $SOURCE/deploy/requirements/models.lock" size="6.3 GB on the disk, less to download" megabytes=10000 ;;
  cpu)
    lock="$SOURCE/deploy/requirements/models-cpu.lock"
    [ -f "$lock" ] || wrong "--cpu: $lock is not there; docs/install.md has the command that makes it"
    locks="$locks $lock" size="PyTorch without CUDA and 1 GB more on the disk" megabytes=5000 ;;
  no) size="1.1 GB on the disk, less to download" megabytes=2500 ;;
esac

# ---- first settings, asked for on a terminal

SETTINGS=$ETC/qc-daemon.toml
ask() {  # ask QUESTION DEFAULT: the answer
  printf '%s [%s]: ' "$1" "$2" >&2
  read -r answer || answer=""
  printf '%s' "${answer:-$2}"
}
if [ ! -e "$SETTINGS" ] && [ -z "$yes" ]; then
  [ -n "$ae_title" ] || ae_title=$(ask "Our AE title" QCDAEMON)
  [ -n "$port" ] || port=$(ask "Port to receive on" 11112)
  if [ -z "$peers" ]; then
    answer=$(ask "First machine that may store, AE@ADDRESS or AE@NETWORK" none)
    [ "$answer" = none ] || peers=" $answer"
  fi
  if [ -z "$pacs" ]; then
    answer=$(ask "Where reports go, AE@HOST:PORT" none)
    [ "$answer" = none ] || pacs=$answer
  fi
  check_answers
fi

# ---- Python

# The units' reload is a signal by /bin/kill, which a bare Debian lacks.
system_works() { [ -x /bin/kill ] && python_works; }
python_works() { python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
if ! system_works; then
  [ -z "$package" ] || fail "Python 3.11 or later with its venv module, or /bin/kill, is missing: apt-get install python3-venv procps"
  step "installing python3-venv, procps"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv procps ca-certificates >/dev/null
  python_works || fail "python3 is older than 3.11"
fi
PYTHON_VERSION=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# ---- libraries: one environment for each set of locks, so that an upgrade builds the new beside the old

# shellcheck disable=SC2086  # A list of files.
lock_hash=$(cat $locks | sha256sum | cut -c1-12)
LIBRARIES=$BASE/libraries/$lock_hash-$PYTHON_VERSION
umask 022
mkdir -p "$BASE/libraries" "$BASE/releases"
if [ ! -e "$LIBRARIES/complete" ]; then
  available=$(df -Pm "$BASE" | awk 'NR == 2 {print $4}')
  [ "$available" -gt "$megabytes" ] || fail "$BASE needs $megabytes MB, and $available MB are free"
  step "libraries: $size; from minutes to an hour, as line and disk are"
  if [ -z "$yes" ]; then
    [ "$(ask "Go on?" yes)" = yes ] || fail "nothing was installed"
  fi
  rm -rf "$LIBRARIES"
  python3 -m venv "$LIBRARIES"
  set -- --quiet --no-deps --require-hashes --only-binary :all: --no-cache-dir --disable-pip-version-check
  [ -z "$wheels" ] || set -- "$@" --no-index --find-links "$wheels"
  for lock in $locks; do set -- "$@" -r "$lock"; done
  # Downloads lie beside the libraries meanwhile: /tmp may be a small piece of memory.
  mkdir "$LIBRARIES/downloads"
  TMPDIR="$LIBRARIES/downloads" "$LIBRARIES/bin/python" -m pip install "$@" || fail "the libraries cannot be installed; run this again when that is mended"
  rm -rf "$LIBRARIES/downloads"
  touch "$LIBRARIES/complete"
fi

# ---- the release: our code alone, on top of those libraries

VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' "$SOURCE/pyproject.toml" | head -1)
source_hash=$(cd "$SOURCE" && find qc_daemon detector model training migrations deploy docs pyproject.toml -type f \
  ! -path '*/__pycache__/*' ! -path '*.egg-info/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
RELEASE=$BASE/releases/$VERSION-$source_hash-$lock_hash-$PYTHON_VERSION
if [ ! -e "$RELEASE/complete" ]; then
  step "qc-daemon $VERSION"
  rm -rf "$RELEASE"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  for each in qc_daemon detector model training migrations pyproject.toml README.md LICENSE NOTICE; do
    cp -R "$SOURCE/$each" "$work/"
  done
  python3 -m venv --without-pip "$RELEASE"
  packages=$("$RELEASE/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$LIBRARIES/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$packages/libraries.pth"
  # setuptools is one of the libraries: nothing is fetched to build with.
  "$LIBRARIES/bin/python" -m pip --python "$RELEASE/bin/python" install --quiet --no-deps --no-index \
    --no-build-isolation --no-cache-dir --disable-pip-version-check "$work" \
    || fail "qc-daemon cannot be installed from $SOURCE"
  cp -R "$SOURCE/docs" "$SOURCE/deploy" "$SOURCE/LICENSE" "$SOURCE/NOTICE" "$RELEASE/"
  printf '%s\n' "$models" > "$RELEASE/models"
  touch "$RELEASE/complete"
fi

# ---- account, folders, settings

if ! id "$ACCOUNT" >/dev/null 2>&1; then
  step "account $ACCOUNT"
  useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$ACCOUNT"
fi
install -d -m 0700 -o "$ACCOUNT" -g "$ACCOUNT" "$STATE" "$CACHE"
install -d -m 0750 -o root -g "$ACCOUNT" "$ETC"
if [ ! -e "$ETC/environment" ]; then
  (umask 077; printf '# Secrets that the settings name as env:NAME, a line NAME=VALUE each.\n' > "$ETC/environment")
fi
write_settings() {
  cat <<TEXT
# The settings of qc-daemon; every one is in $BASE/current/docs/settings.md.
# Taken up by: systemctl reload (peers, destinations, rules, log level), restart (all else).
[store]
url = "${database:-sqlite:///$STATE/qc.db}"
spool = "$STATE/spool"

[receive]
ae_title = "${ae_title:-QCDAEMON}"
host = "${host:-0.0.0.0}"
port = ${port:-11112}

[observe]
port = $FIRST_METRICS_PORT
TEXT
  [ -z "$language" ] || printf '\n[report]\nlanguage = "%s"\n' "$language"
  [ -z "$web_port" ] || printf '\n[web]\nport = %s\n' "$web_port"
  for each in $peers; do
    printf '\n[[receive.peer]]\nae_title = "%s"\naddress = "%s"\n' "${each%%@*}" "${each#*@}"
  done
  if [ -n "$pacs" ]; then
    address=${pacs#*@}
    printf '\n[[destination]]\nname = "pacs"\nae_title = "%s"\nhost = "%s"\nport = %s\nobjects = ["source", "sr", "overlay"]\n' \
      "${pacs%%@*}" "${address%:*}" "${address##*:}"
  fi
}
if [ ! -e "$SETTINGS" ]; then
  step "settings $SETTINGS"
  write_settings > "$SETTINGS.new"
  chown root:"$ACCOUNT" "$SETTINGS.new"
  chmod 0640 "$SETTINGS.new"
  mv "$SETTINGS.new" "$SETTINGS"
fi

# ---- units and command

changed=""
if [ -n "$package" ]; then
  # What this script installed by hand before would stand before the package's own.
  for each in "$UNITS/qc-daemon.service" "$UNITS/qc-daemon@.service" "$COMMAND"; do
    if [ -f "$each" ]; then rm -f "$each"; changed=yes; fi
  done
fi
put() {  # put FILE TARGET: copy it where it differs
  cmp -s "$1" "$2" && return
  install -m "${3:-0644}" "$1" "$2"
  changed=yes
}
if [ -z "$package" ]; then
  put "$SOURCE/deploy/systemd/qc-daemon.service" "$UNITS/qc-daemon.service"
  put "$SOURCE/deploy/systemd/qc-daemon@.service" "$UNITS/qc-daemon@.service"
  put "$SOURCE/deploy/qc-daemon" "$COMMAND" 0755
fi
if [ -n "$gpu" ]; then
  for unit in qc-daemon.service qc-daemon@work.service; do
    install -d -m 0755 "$UNITS/$unit.d"
    put "$SOURCE/deploy/systemd/qc-daemon-gpu.conf" "$UNITS/$unit.d/gpu.conf"
  done
fi
[ -z "$changed" ] || ! has_systemd || systemctl daemon-reload

units=$(enabled_units)
case " $roles " in *" all "*) roles="" units=qc-daemon.service ;; esac
if [ -n "$roles" ]; then
  units="" metrics_port=$FIRST_METRICS_PORT
  for role in $roles; do
    units="$units qc-daemon@$role.service"
    # Each has a supervisor with metrics of its own.
    [ -e "$ETC/environment.$role" ] || (umask 077; printf 'QC_DAEMON_OBSERVE__PORT=%s\n' "$metrics_port" > "$ETC/environment.$role")
    metrics_port=$((metrics_port + 1))
  done
elif [ -z "$units" ]; then
  units=qc-daemon.service
fi

# ---- the change itself

former=$(readlink "$BASE/current" 2>/dev/null || true)
run() { "$SOURCE/deploy/qc-daemon" "$@"; }
if [ "$former" != "$RELEASE" ] && [ -n "$former" ] && [ -e "$former/complete" ]; then
  step "what this upgrade will do"
  QC_PROGRAM="$RELEASE/bin/qc-daemon" run upgrade check --backups "$STATE/backups" \
    || fail "nothing was changed; what FAILs has to be done first"
  backup=$STATE/backups/before-$(basename "$RELEASE")
  if run db check >/dev/null 2>&1 && [ ! -e "$backup" ]; then
    step "backup of the database: $backup"
    install -d -m 0700 -o "$ACCOUNT" -g "$ACCOUNT" "$STATE/backups"
    run db backup "$backup" || fail "no backup, so nothing was changed; qc-daemon doctor says what is wrong"
  fi
fi
for unit in $(enabled_units); do
  case " $units " in *" $unit "*) continue ;; esac
  step "no longer: $unit"
  if has_systemd; then systemctl disable --quiet --now "$unit"; else systemctl disable --quiet "$unit"; fi
done
is_new=""
if [ "$former" != "$RELEASE" ]; then
  is_new=yes
  ln -sfn "$RELEASE" "$BASE/current.new"
  mv -T "$BASE/current.new" "$BASE/current"
fi
# Enabled anew, for the unit may have moved from a script's folder to the package's.
for unit in $units; do systemctl reenable --quiet "$unit"; done
if [ -n "$start" ] && has_systemd; then
  for unit in $units; do
    if [ -n "$is_new$changed" ]; then verb=restart; else verb=start; fi
    step "$verb $unit"
    systemctl "$verb" "$unit" || fail "$unit does not start: journalctl -u $unit -n 20, and qc-daemon doctor"
  done
fi

# ---- what is not needed any more; the former release stays, to go back to

for each in "$BASE"/releases/*; do
  [ "$each" = "$RELEASE" ] || [ "$each" = "$former" ] || rm -rf "$each"
done
for each in "$BASE"/libraries/*; do
  grep -qsF "$each/" "$BASE"/releases/*/lib/python*/site-packages/libraries.pth || rm -rf "$each"
done

# ---- what to do next

port=$(sed -n '/^\[receive\]/,/^\[/s/^port *= *\([0-9]*\).*/\1/p' "$SETTINGS" | head -1)
step "done: qc-daemon $VERSION"
has_systemd || say "systemd does not run here: nothing was started"
say "  settings      $SETTINGS"
say "  is all well?  qc-daemon doctor"
say "  state, log    systemctl status 'qc-daemon*', journalctl -u 'qc-daemon*'"
say "  firewall      the machines have to reach TCP port ${port:-11112}, as with: ufw allow proto tcp from NETWORK to any port ${port:-11112}"
say "  upgrade       this script of the newer version; --uninstall takes it away"
