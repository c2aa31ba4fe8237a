# What every page finds: a person with some files, a checkout, and hosts that are this machine.
set -u

# printed WHERE STATUS: runs the command on standard input, in this shell, as a reader would.
printed() {
    local command status
    command=$(cat)
    eval "$command" < /dev/null
    status=$?
    if [ "$status" != "$2" ]; then
        echo "$1: exit status $status instead of $2: $command" >&2
        exit 1
    fi
}

# stub NAME: a program of that name, from standard input.
stub() {
    cat > "/opt/bin/$1"
    chmod +x "/opt/bin/$1"
}

# Any host: the account there has its home at /home/backup.
stub ssh << 'END'
#!/bin/sh
while :; do
    case $1 in
    -o | -p | -l | -i | -F) shift 2 ;;
    -s) subsystem=yes; shift ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
    esac
done
shift
cd /home/backup && export HOME=/home/backup
if [ "${subsystem-}" ]; then exec /usr/lib/openssh/sftp-server; fi
if [ $# = 0 ]; then exec sh; fi
exec sh -c "$*"
END
# There is no systemd in here, and no mail.
for program in journalctl mail systemctl virsh; do
    stub "$program" << 'END'
#!/bin/sh
exit 0
END
done

mkdir -p ~/work ~/letters
echo 'buy bread' > ~/work/notes.txt
echo 'dear reader' > ~/letters/one
cp -r /opt/checkout ~/treering
cd ~/treering
# A host of git: what is pushed to it by https lies here.
git config --system url./srv/git/.insteadOf https://example.org/
