# PostgreSQL with a database, saved as the page says.
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql
install -d -o postgres "$data" /run/postgresql /var/backups/postgres
as_postgres() { runuser -u postgres -- "$@"; }
as_postgres "$bin/initdb" --auth=trust -D "$data/data" > /dev/null || exit 1
settings="-c listen_addresses= -c fsync=off -c unix_socket_directories=/run/postgresql"
as_postgres "$bin/pg_ctl" -D "$data/data" -o "$settings" -l "$data/log" -w start > /dev/null || exit 1
trap 'as_postgres "$bin/pg_ctl" -D "$data/data" -m immediate stop > /dev/null' EXIT
export PGHOST=/run/postgresql
as_postgres psql -q -c 'create role root superuser login' -c 'create database shop' || exit 1
as_postgres psql -q shop -c 'create table fruit (name text)' -c "insert into fruit values ('apple')" || exit 1
as_postgres createdb shop_restored || exit 1
mkdir -p /var/lib/libvirt/images
head -c 300000 /dev/urandom > /var/lib/libvirt/images/web.img
stub virsh << 'END'
#!/bin/sh
[ "$1" != snapshot-create-as ] || touch /var/lib/libvirt/images/web.overlay
END
treering -P postgres init -q || exit 1
treering -P machines backup -q --time '3 days ago' || exit 1
treering -P postgres schedule run --force || exit 1
treering -P machines schedule run --force || exit 1
