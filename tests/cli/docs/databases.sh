# Databases that run, a machine, and their profiles of the page, each run once.
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql
install -d -o postgres "$data" /run/postgresql /var/backups/postgres
as_postgres() { runuser -u postgres -- "$@"; }
as_postgres "$bin/initdb" --auth=trust -D "$data/data" > /dev/null || exit 1
settings="-c listen_addresses= -c fsync=off -c unix_socket_directories=/run/postgresql"
as_postgres "$bin/pg_ctl" -D "$data/data" -o "$settings" -l "$data/log" -w start > /dev/null || exit 1
export PGHOST=/run/postgresql
as_postgres psql -q -c 'create role root superuser login' -c 'create database shop' || exit 1
as_postgres psql -q shop -c 'create table fruit (name text)' -c "insert into fruit values ('apple')" || exit 1
as_postgres createdb shop_restored || exit 1

maria=/var/lib/mysql
install -d -o mysql "$maria" /run/mysqld
mariadb-install-db --user=mysql --datadir="$maria" --skip-test-db > /dev/null || exit 1
mariadbd --no-defaults --user=mysql --datadir="$maria" --socket=/run/mysqld/mysqld.sock --skip-networking \
    2> "$maria/log" &
stop() {
    as_postgres "$bin/pg_ctl" -D "$data/data" -m immediate stop > /dev/null
    kill %1 && wait
}
trap stop EXIT
for _ in $(seq 300); do
    mariadb -e 'create database shop' 2> /dev/null && break
    sleep 0.1
done

mkdir -p /srv/app /var/backups/{app,mariadb} /var/lib/libvirt/images
sqlite3 /srv/app/app.db 'create table fruit (name text)' || exit 1
head -c 300000 /dev/urandom > /var/lib/libvirt/images/web.img
stub virsh << 'END'
#!/bin/sh
[ "$1" != snapshot-create-as ] || touch /var/lib/libvirt/images/web.overlay
END
treering -P postgres init -q || exit 1
treering -P machines backup -q --time '3 days ago' || exit 1
for profile in postgres mariadb sqlite machines; do
    treering -P "$profile" schedule run --force || exit 1
done
