# Starts the workspace in a session of its own, so that it outlives Terraform.
# In: DIRECTORY (goes with a stop), HOME_DIRECTORY (stays), INIT_SCRIPT, CODER_AGENT_TOKEN.
umask 077
mkdir -p "$HOME_DIRECTORY" "$DIRECTORY/bin" "$DIRECTORY/tmp" || exit 1
printf '%s\n' "${INIT_SCRIPT:-echo 'the server gave no agent script: nothing to run'}" > "$DIRECTORY/init.sh"
cd "$HOME_DIRECTORY" || exit 1

# What the agent downloads and writes belongs into our directories, which go with a stop or a delete.
export HOME="$HOME_DIRECTORY" TMPDIR="$DIRECTORY/tmp" BINARY_DIR="$DIRECTORY/bin"
# What only Terraform needs is no part of a workspace.
unset INIT_SCRIPT START STOP
for name in $(env | sed -n 's/^\(CODER_AGENT_SCRIPT_[a-z0-9_]*\)=.*/\1/p'); do unset "$name"; done

# macOS has no `setsid`, but Perl.
if command -v setsid > /dev/null; then new_session='setsid'; else new_session='perl -e setpgrp;exec(@ARGV)'; fi
# The leader of the session stays until the agent has ended, whatever it is told itself.
$new_session sh -c 'trap : TERM; sh "$0"; echo "ended: $?"' "$DIRECTORY/init.sh" < /dev/null > "$DIRECTORY/agent.log" 2>&1 &
echo "$!" > "$DIRECTORY/agent.pid"
