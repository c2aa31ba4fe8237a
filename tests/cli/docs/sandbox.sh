#!/usr/bin/env bash
# Runs a script in a root directory of its own: the programs and settings of this machine can be read there, and
# everything else is empty and goes away at the end. Started in a mount namespace, as its root.
set -euo pipefail
root=$1 program=$2 script=$3

mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root"/{dev,etc,machine-etc,home/backup,home/me,media,mnt,opt/bin,proc,root,run,srv,var/tmp}
mkdir -m 1777 "$root/tmp"
for name in bin lib lib32 lib64 sbin usr; do
    if [ -L "/$name" ]; then
        cp -P "/$name" "$root/$name"
    elif [ -d "/$name" ]; then
        mkdir "$root/$name"
        mount --rbind "/$name" "$root/$name"
    fi
done
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
# The files of /etc, but for those that a page makes or that name hosts.
mount --rbind /etc "$root/machine-etc"
for path in /etc/*; do
    ln -s "/machine-etc/${path#/etc/}" "$root${path}"
done
rm -f "$root"/etc/{gitconfig,hosts,systemd,treering}
mkdir -p "$root/etc/systemd/system"
echo '127.0.0.1 localhost bucket.localhost' > "$root/etc/hosts"

touch "$root/opt/bin/treering"
mount --bind "$program" "$root/opt/bin/treering"
cp "$script" "$root/opt/page.sh"
cp -r "$4" "$root/opt/checkout"
exec chroot "$root" /usr/bin/env -i HOME=/home/me USER=me LANG=C.UTF-8 TZ=UTC \
    PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    AWS_ACCESS_KEY_ID="$5" AWS_SECRET_ACCESS_KEY="$6" AWS_ENDPOINT_URL="$7" \
    bash /opt/page.sh
