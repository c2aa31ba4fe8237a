stub sensors << 'END'
#!/bin/sh
echo '21 degrees'
END
# What an editor is to a script: it adds a line.
stub editor << 'END'
#!/bin/sh
echo 'water the tree' >> "$1"
END
export EDITOR=editor
cd ~/work
echo '21,22' > monday.csv
echo '19,18' > tuesday.csv
echo 'dear diary' > diary.txt
head -c 5000 /dev/urandom > picture.png
git init -q --bare /home/backup/me/readings.git
git init -q --bare /home/backup/me/notes.git
