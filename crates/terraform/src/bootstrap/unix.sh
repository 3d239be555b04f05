#!/usr/bin/env sh
# Starts the agent of a workspace: fetches it from the server, makes sure that it is what it should be, and becomes it.
# Templates put this text into single quotes, so none may stand in it.
#
# Understood: BINARY_DIR and BINARY_NAME (where the agent lies), BINARY_SHA256 (what it must be), SSL_CERT_FILE (whom to
# trust), BOOTSTRAP_ATTEMPTS, BOOTSTRAP_PAUSE_SECONDS and BOOTSTRAP_LINGER_SECONDS, USE_CAP_NET_ADMIN.
set -u

BINARY_NAME="${BINARY_NAME:-coder}"
BINARY_URL="${ACCESS_URL}bin/coder-${OS}-${ARCH}"
begins="${MAGIC}"
attempts="${BOOTSTRAP_ATTEMPTS:-120}"
pause="${BOOTSTRAP_PAUSE_SECONDS:-15}"
stage="start"
why=""

say() { printf "%s\n" "$*" >&2; }

# Whatever ended this script, the machine stays for a while, so that somebody can read why.
ended() {
  status=$?
  trap - EXIT
  clean=$(printf "%s" "$why" | tr "\"\\\\" "  " | tr -cd " -~" | cut -c 1-300)
  say "agent-bootstrap-error: {\"stage\":\"$stage\",\"status\":$status,\"url\":\"$BINARY_URL\",\"message\":\"$clean\"}"
  linger="${BOOTSTRAP_LINGER_SECONDS:-86400}"
  if [ "$linger" -gt 0 ]; then
    say "The agent did not start (status $status). This script waits for $linger seconds, so that its messages stay."
    sleep "$linger"
  fi
  exit "$status"
}
trap ended EXIT

has() { command -v "$1" >/dev/null 2>&1; }

# Whoever can write to the directory can replace the agent, which has a token. Below a shared one another user may have
# made it first.
is_own() {
  case "$1" in
    /tmp/* | /var/tmp/* | /dev/shm/*) ;;
    *) return 0 ;;
  esac
  owner=$(ls -ldn "$1" 2>/dev/null) || return 1
  case "$owner" in
    d????-??-*) ;;
    *) return 1 ;;
  esac
  # shellcheck disable=SC2086 # Split into its fields.
  set -- $owner
  [ "$3" = "$(id -u)" ]
}

# A directory in which this script can write and run programs.
is_usable() {
  [ -n "$1" ] && { [ -d "$1" ] || mkdir -p -m 0700 "$1" 2>/dev/null; } && is_own "$1" || return 1
  probe="$1/.probe.$$"
  printf "#!/bin/sh\nexit 0\n" 2>/dev/null >"$probe" && chmod 0700 "$probe" 2>/dev/null && "$probe" 2>/dev/null
  good=$?
  rm -f "$probe" 2>/dev/null
  return $good
}

last_line() { [ -s "$1" ] && tail -n 1 "$1" | cut -c 1-300; }

by_curl() {
  has curl || return 127
  set -- -fsSL --connect-timeout 20 --max-time 1800 -o "$1" "$BINARY_URL"
  [ -z "${SSL_CERT_FILE:-}" ] || set -- --cacert "$SSL_CERT_FILE" "$@"
  curl --compressed "$@" 2>"$errors"
  code=$?
  # Some were built without compression.
  [ $code -eq 2 ] && curl "$@" 2>"$errors" && return 0
  # Its first line says what is wrong, the others what to read.
  first=$(head -n 1 "$errors" 2>/dev/null) && printf "%s\n" "$first" >"$errors"
  return $code
}

by_wget() {
  has wget || return 127
  [ -z "${SSL_CERT_FILE:-}" ] || wget -q -T 60 -t 1 --ca-certificate="$SSL_CERT_FILE" -O "$1" "$BINARY_URL" 2>"$errors" && [ -s "$1" ] && return 0
  wget -q -T 60 -t 1 -O "$1" "$BINARY_URL" 2>"$errors" || wget -q -T 60 -O "$1" "$BINARY_URL" 2>"$errors"
}

by_busybox() {
  has busybox || return 127
  # Its own limit of time breaks some builds of it.
  busybox timeout 1800 busybox wget -q -O "$1" "$BINARY_URL" 2>"$errors"
}

by_python() {
  python=$(command -v python3 || command -v python) || return 127
  "$python" -c "
import os, shutil, ssl, sys, urllib.request
trust = ssl.create_default_context(cafile=os.environ.get(\"SSL_CERT_FILE\") or None)
with urllib.request.urlopen(sys.argv[1], timeout=60, context=trust) as answer, open(sys.argv[2], \"wb\") as file:
    shutil.copyfileobj(answer, file)
    size = answer.headers.get(\"Content-Length\")
    if size and file.tell() != int(size):
        sys.exit(\"the answer broke off\")
" "$BINARY_URL" "$1" 2>"$errors"
}

sha256() {
  if has sha256sum; then sha256sum "$1" | cut -d " " -f 1
  elif has shasum; then shasum -a 256 "$1" | cut -d " " -f 1
  elif has openssl; then openssl dgst -sha256 -r "$1" | cut -d " " -f 1
  elif has busybox; then busybox sha256sum "$1" | cut -d " " -f 1
  else return 1
  fi
}

# Whether what came is the agent. What is not is said in the words of whoever sent it.
is_agent() {
  if [ ! -s "$1" ]; then
    why="the server sent nothing"
    return 1
  fi
  if has od; then
    first=$(od -An -tx1 -N 4 "$1" | tr -d " \n")
    if [ "$first" != "$begins" ]; then
      text=$(head -c 2000 "$1" | tr -cd " -~\n" | sed -e "s/<[^>]*>/ /g" | tr -s " \n" " " | cut -c 1-200)
      why="this is no program, but perhaps a login page or an error of a proxy: $text"
      return 1
    fi
  fi
  if [ -n "${BINARY_SHA256:-}" ]; then
    found=$(sha256 "$1") || found="unknown, as there is no tool for it"
    if [ "$found" != "$BINARY_SHA256" ]; then
      why="the checksum is $found, and should be $BINARY_SHA256"
      return 1
    fi
  fi
}

# Fetches the agent into a directory with the first tool that can.
fetch() {
  part="$1/$BINARY_NAME.part.$$"
  errors="$1/.errors.$$"
  found=""
  for tool in curl wget busybox python; do
    rm -f "$part" "$errors"
    "by_$tool" "$part"
    status=$?
    [ $status -eq 127 ] && [ ! -s "$errors" ] && continue
    found="yes"
    if [ $status -ne 0 ]; then
      why="$tool failed with status $status: $(last_line "$errors")"
      say "$why"
      continue
    fi
    if is_agent "$part"; then
      rm -f "$errors"
      chmod 0755 "$part" && mv -f "$part" "$1/$BINARY_NAME" && return 0
      why="the agent cannot be put into $1"
    fi
    say "$why"
  done
  rm -f "$part" "$errors"
  if [ -z "$found" ]; then
    stage="tools"
    why="there is none of curl, wget, busybox and python: install one of them"
    say "$why"
    exit 127
  fi
  return 1
}

# What the first line of --version says; another program, or one for another machine, does not say it.
is_good() {
  line=$("$1/$BINARY_NAME" --version 2>&1 | head -n 1)
  case "$line" in
    *Coder*) return 0 ;;
  esac
  why="the program in $1 does not know what it is: $line"
  say "$why"
  return 1
}

allow_net_admin() {
  [ -n "${USE_CAP_NET_ADMIN:-}" ] && [ "$(id -u)" -ne 0 ] || return 0
  if has sudo && has setcap && sudo -n setcap CAP_NET_ADMIN=+ep "$1" 2>/dev/null; then return 0; fi
  say "CAP_NET_ADMIN could not be given to the agent: that needs sudo without a password, and setcap"
}

temporary=$(mktemp -d "${TMPDIR:-/tmp}/coder.XXXXXX" 2>/dev/null)
set -- "${BINARY_DIR:-}" "$temporary" "${HOME:-/nonexistent}/.cache/coder-agent" "/var/tmp/coder-agent.$(id -u)" \
  "/dev/shm/coder-agent.$(id -u)" "${XDG_RUNTIME_DIR:-/nonexistent}/coder-agent"

stage="download"
attempt=0
while :; do
  usable=0
  for dir in "$@"; do
    is_usable "$dir" || continue
    usable=$((usable + 1))
    say "Fetching $BINARY_URL into $dir"
    if fetch "$dir"; then
      stage="version"
      if is_good "$dir"; then
        [ "$dir" = "$temporary" ] || rmdir "$temporary" 2>/dev/null
        break 2
      fi
      exit 2
    fi
    # The next directory only helps where this one is full.
    if [ -s "$dir/.room.$$" ] || printf "%0100000d" 0 2>/dev/null >"$dir/.room.$$"; then
      rm -f "$dir/.room.$$"
      break
    fi
    rm -f "$dir/.room.$$"
    why="$dir is full"
    say "$why"
  done
  if [ "$usable" -eq 0 ]; then
    stage="directory"
    why="no directory to write and run programs in: tried $*; name one in BINARY_DIR"
    say "$why"
    exit 1
  fi
  attempt=$((attempt + 1))
  if [ "$attempt" -ge "$attempts" ]; then
    say "Gave up after $attempt attempts."
    exit 1
  fi
  # Many machines that start at once should not come again at once.
  jitter=$((($(date +%s) + $$) % (pause + 1)))
  say "Trying again in $((pause + jitter)) seconds ($attempt of $attempts)."
  sleep $((pause + jitter))
done

allow_net_admin "$dir/$BINARY_NAME"
export CODER_AGENT_AUTH="${AUTH_TYPE}"
export CODER_AGENT_URL="${ACCESS_URL}"
stage="exec"
why="the agent could not be executed"
cd "$dir" || exit 1
trap - EXIT
exec "./$BINARY_NAME" agent
