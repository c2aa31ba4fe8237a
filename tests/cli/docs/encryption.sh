export TREERING_PASSWORD=passphrase
cd ~
