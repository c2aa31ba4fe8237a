export TREERING_REPOSITORY=~/rings
mkdir -p /mnt/disk
cd ~
treering init -q
treering backup -q ~/work
git init -q --bare /srv/git/me/rings.git
