# Starts the workspace in a session of its own, so that it outlives Terraform.
# In: DIRECTORY (goes with a stop), HOME_DIRECTORY (stays), INIT_SCRIPT, CODER_AGENT_TOKEN.
umask 077
mkdir -p "$HOME_DIRECTORY" "$DIRECTORY/bin" "$DIRECTORY/tmp" || exit 1
printf '%s\n' "${INIT_SCRIPT:-echo 'the server gave no agent script: nothing to run'}" > "$DIRECTORY/init.sh"
cd "$HOME_DIRECTORY" || exit 1

# What the agent downloads and writes belongs into our directories, which go with a stop or a delete.
export HOME="$HOME_DIRECTORY" TMPDIR="$DIRECTORY/tmp" BINARY_DIR="$DIRECTORY/bin"
# Nothing else of the host, of Terraform or of the owner is part of a workspace.
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
  case $name in
    HOME | PATH | USER | LOGNAME | SHELL | LANG | LANGUAGE | LC_* | TZ | TMPDIR | PWD | DIRECTORY) ;;
    BINARY_* | BOOTSTRAP_* | SSL_CERT_FILE | SSL_CERT_DIR | [Hh][Tt][Tt][Pp]*_[Pp]* | [Nn][Oo]_[Pp]*) ;;
    CODER_AGENT_SCRIPT_*) unset "$name" ;;
    CODER_AGENT_*) ;;
    *) unset "$name" ;;
  esac
done

# macOS has no `setsid`, but Perl.
if command -v setsid > /dev/null; then new_session='setsid'; else new_session='perl -e setpgrp;exec(@ARGV)'; fi
# The leader of the session stays until the agent has ended, whatever it is told itself.
$new_session sh -c 'umask 022; trap : TERM; sh "$0"; echo "ended: $?"' "$DIRECTORY/init.sh" < /dev/null > "$DIRECTORY/agent.log" 2>&1 &
echo "$!" > "$DIRECTORY/agent.pid"
