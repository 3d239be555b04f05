# Ends what runs in $DIRECTORY, and removes it. Succeeds when there is nothing to do.
is_alive() { kill -0 "$pid" 2> /dev/null && ! grep -q '^State:.Z' "/proc/$pid/status" 2> /dev/null; }
pid=$(cat "$DIRECTORY/agent.pid" 2> /dev/null)
# A pid may belong to somebody else by now, say after a reboot: ours names its own script.
if [ -r "/proc/${pid:-none}/cmdline" ] && ! grep -qF "$DIRECTORY/init.sh" "/proc/$pid/cmdline"; then pid=; fi
if [ -n "$pid" ]; then
  for signal in TERM KILL; do
    kill -s "$signal" -- "-$pid" 2> /dev/null
    tries=50
    while is_alive && [ "$tries" -gt 0 ]; do
      tries=$((tries - 1))
      sleep 0.1
    done
  done
fi
rm -rf "$DIRECTORY"
