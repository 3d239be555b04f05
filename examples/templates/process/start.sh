# Starts the workspace in a session of its own, so that it outlives Terraform.
# In: DIRECTORY (goes with a stop), HOME_DIRECTORY (stays), INIT_SCRIPT, CODER_AGENT_TOKEN.
umask 077
mkdir -p "$HOME_DIRECTORY" "$DIRECTORY/bin" "$DIRECTORY/tmp" || exit 1
printf '%s\n' "${INIT_SCRIPT:-echo 'the server gave no agent script: nothing to run'}" 'while :; do sleep 3600; done' > "$DIRECTORY/init.sh"
cd "$HOME_DIRECTORY" || exit 1

# What the agent downloads and writes belongs into our directories, which go with a stop or a delete.
export HOME="$HOME_DIRECTORY" TMPDIR="$DIRECTORY/tmp" BINARY_DIR="$DIRECTORY/bin"
unset INIT_SCRIPT START STOP

# macOS has no `setsid`; there the process is in Terraform's group, which is left alone at a normal end.
if command -v setsid > /dev/null; then new_session=setsid; else new_session=nohup; fi
"$new_session" sh "$DIRECTORY/init.sh" < /dev/null > "$DIRECTORY/agent.log" 2>&1 &
echo "$!" > "$DIRECTORY/agent.pid"
