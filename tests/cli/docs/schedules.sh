cd ~
mkdir -p /srv/www /var/spool
echo '<p>hello' > /srv/www/index.html
