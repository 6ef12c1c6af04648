#!/bin/sh
# limit: 600
# copse predict and copse embed: classes from everywhere, what is reported, caches, bad input, signals, full disks.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 6 --train-per-class 20 --test-per-class 2 --seed 3
cat >tiny.lua <<'END'
local copse = require "copse"
return copse.job {
  name = "tiny", seed = 1, model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = { copse.stage { objective = copse.objective.clip {}, steps = 4, global_batch = 16, grain = 8,
    optimizer = copse.adamw { lr = 1e-3 } } },
}
END
check "a model" copse train tiny.lua --threads 2
model=runs/tiny/checkpoints/step-00000004.h5
check "pictures" copse inspect set/test-00000.h5 --table photos
rm photos/captions.csv
mkdir photos/deeper && mv photos/00000[01].jpg photos/deeper
printf 'this is no picture\n' >photos/broken.jpg
printf 'nor this' >photos/notes.txt
lines() { # lines FILE NUMBER
    [ "$(wc -l <"$1")" -eq "$2" ] || { echo "$(wc -l <"$1") lines in $1, $2 are wanted" && false; }
}
same() { cmp "$1" "$2"; }

# ---- labels, and what is said about them
printf '\357\273\277oak, old\r\n"quoted" leaf\n\nplain leaf\n' >labels.txt
expect "labels of a file" 0 'classes: 3 labels of labels.txt.*model: .*digest.*preprocessing: crop to 64 pixels, bicubic, mean 0.48.*text: label.*templates: imagenet: 80.*12 predicted, 1 not read' \
    copse predict "$model" photos --labels labels.txt -o labels.csv
check "a row a label, and the header" lines labels.csv 37
expect "labels are quoted as RFC 4180 says" 0 '' grep -x -E 'photos/000002.jpg,"(oak, old|""quoted"" leaf)",0\.[0-9]+' labels.csv
expect "the unreadable picture is named" 0 'photos/broken.jpg: not read: not a JPEG or PNG' \
    copse predict "$model" photos --labels labels.txt -o labels-again.csv
check "the same bytes again" same labels.csv labels-again.csv
first=$(sed -n 2p labels.csv | cut -d, -f1)
check "folders are read in order, what lies deeper too" test "$first" = photos/000002.jpg
check "and deeper" grep -q '^photos/deeper/000000.jpg,' labels.csv
for n in 2 3; do
    expect "on $n ranks" 0 '12 predicted, 1 not read' copse predict "$model" photos --labels labels.txt -o "ranks$n.csv" -n $n --threads 1 --batch 4
done
expect "on one rank, two threads" 0 '' copse predict "$model" photos --labels labels.txt -o ranks1.csv --batch 4 --threads 2
check "the same bytes on 1 and 2 ranks" same ranks1.csv ranks2.csv
check "the same bytes on 1 and 3 ranks" same ranks1.csv ranks3.csv
expect "--label, --k, JSON" 0 '^\[.*\{"file_name": "photos/000003.jpg", "classification": "a \\"b\\"", "score": [0-9.e-]+\}.*\]' \
    copse predict "$model" photos/000003.jpg --label 'a "b"' --label c --k 1 --format json -q
expect "a table" 0 'file_name +classification +score +photos/000003.jpg +[ac] +0\.[0-9]+' \
    copse predict "$model" photos/000003.jpg --label a --label c --format table -q
check "duplicate paths have their own rows" sh -c "[ \$('$COPSE' predict '$model' photos/000003.jpg photos/000003.jpg --label a --label b -q | grep -c 000003) -eq 4 ]"
printf 'photos/000004.jpg\n\nphotos/000003.jpg\n' >list.txt
expect "--list" 0 'photos/000004.jpg,.*photos/000003.jpg,' copse predict "$model" --list list.txt --label a --label b -q
expect "--list from standard input" 0 '' sh -c "'$COPSE' predict '$model' --list - --label a --label b -q <list.txt >stdin.csv"
check "gives as many rows" lines stdin.csv 5
expect "a shard's class list" 0 'classes: 6 labels of set/test' copse predict "$model" photos/000003.jpg --labels set/test-00000.h5

# ---- taxa
cat >taxa.csv <<'END'
kingdom,phylum,class,order,family,genus,species,common_name
Animalia,Chordata,Mammalia,Carnivora,Ursidae,Ursus,arctos,"bear, brown"
Animalia,Chordata,Mammalia,Carnivora,Ursidae,Ursus,maritimus,polar bear
Animalia,Chordata,,Cypriniformes,Cyprinidae,Carassius,auratus,Goldfish
Plantae,Tracheophyta,Magnoliopsida,Fagales,Fagaceae,Quercus,robur,
END
expect "taxa" 0 'classes: 4 taxa of taxa.csv.*text: taxon_com.*templates: plain: 1' \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain -o species.csv
check "k is the number of taxa at most" lines species.csv 5
check "columns of species" grep -q -x 'file_name,kingdom,phylum,class,order,family,genus,species_epithet,species,common_name,score' species.csv
check "species and common name" grep -q '^photos/000003.jpg,Animalia,Chordata,Mammalia,Carnivora,Ursidae,Ursus,arctos,Ursus arctos,"bear, brown",0\.' species.csv
check "a gap is a value" grep -q ',Animalia,Chordata,,Cypriniformes,' species.csv
expect "a rank" 0 'file_name,kingdom,phylum,class,score.*,Chordata,Mammalia,0\..*,Chordata,,0\.' \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --rank class -q
expect "the deepest rank that is sure enough" 0 'photos/000003.jpg,(kingdom|phylum),Animalia,(Chordata)?,,,,,,,,0\.' \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --min-confidence 0.6 -q
expect "none is" 0 'photos/000003.jpg,,,,,,,,,,,0\.' \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --min-confidence 1 -q
printf 'genus\nUrsus\n' >subset.csv
expect "a subset, at another rank" 0 'photos/000003.jpg,Animalia,Chordata,Mammalia,Carnivora,Ursidae,(1|0.99999[0-9]*)' \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --subset subset.csv --rank family --k 5 -q
printf 'genus\nUrsus\nFelis\nCanis\n' >subset.csv
expect_one "unknown values of a subset" 64 "no taxon of the classifier has this genus: 'Felis', 'Canis'" \
    copse predict "$model" photos --taxa taxa.csv --subset subset.csv
printf 'tribe\nUrsini\n' >subset.csv
expect_one "a subset without a rank" 64 "its first header is 'tribe'" copse predict "$model" photos --taxa taxa.csv --subset subset.csv
expect "--list-taxa" 0 '^kingdom,phylum,class,order,family,genus,species_epithet,species,common_name .*,auratus,Carassius auratus,Goldfish' \
    copse predict --list-taxa --taxa taxa.csv -q
expect "--list-taxa reads its own output" 0 'Carassius auratus' sh -c "'$COPSE' predict --list-taxa --taxa taxa.csv -q -o listed.csv && '$COPSE' predict --list-taxa --taxa listed.csv -q -o relisted.csv && cmp listed.csv relisted.csv && cat relisted.csv"
expect "--list-models" 0 'ViT-B-16 +224 +16 +768 +12 +512 +12 +77 +512 +gelu .*ViT-B-16-quickgelu' copse predict --list-models
expect "the published texts" 0 'text: ranks_com' copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --text ranks_com
expect_one "a taxon without a common name" 64 "taxon 4 \('Plantae.*has no text of type 'com'" \
    copse predict "$model" photos/000003.jpg --taxa taxa.csv --text com
printf 'kingdom,phylum\na,b\n' >few.csv
expect_one "a table without ranks" 64 "few.csv: there is no column 'class'" copse predict "$model" photos --taxa few.csv

head -n 1 taxa.csv | sed 's/^/file,/' >organisms.csv
sed -n '2,$s/^/photos\/000003.jpg,/p' taxa.csv | head -n 1 >>organisms.csv
sed -n '2,$s/^/photos\/000004.jpg,/p' taxa.csv | tail -n 1 >>organisms.csv
sed -n '2,$s/^/photos\/000005.jpg,/p' taxa.csv | tail -n 1 >>organisms.csv
check "a shard of organisms" copse pack organisms organisms.csv --caption-column ''
expect "its taxa, each once" 0 'classes: 2 taxa of organisms-00000.h5.*Ursus arctos,"bear, brown",.*Quercus robur,' \
    copse predict "$model" photos/000003.jpg --taxa organisms-00000.h5 --templates plain
check "a shard of pictures alone" copse pack bare photos/deeper
expect_one "has no organisms" 64 'has no taxonomic ranks' copse predict "$model" photos --taxa bare-00000.h5
expect "texts that are cut are counted" 0 '6 of 6 class texts are longer than the 32 tokens that the model reads' \
    copse predict "$model" photos/000003.jpg --taxa set/test-00000.h5 --templates plain

# ---- bins
printf 'class,bin\n"oak, old",trees\n"""quoted"" leaf",leaves\nplain leaf,leaves\n' >bins.csv
expect "bins" 0 'bins: 2 of bins.csv' copse predict "$model" photos/000003.jpg --labels labels.txt --bins bins.csv -o bins-out.csv
check "a row a bin" lines bins-out.csv 3
expect "bins bring their classes" 0 '' copse predict "$model" photos/000003.jpg --bins bins.csv -q -o bins-again.csv
check "and the same sums" same bins-out.csv bins-again.csv
printf 'class,bin\n"oak, old",\n' >bins.csv
expect_one "a blank bin" 64 "bins.csv:2: the bin of 'oak, old' is blank" copse predict "$model" photos --bins bins.csv
expect_one "bins of taxa" 64 '\-\-bins sums labels' copse predict "$model" photos --taxa taxa.csv --bins bins.csv

# ---- classifiers in files
expect "class vectors are saved" 0 'class vectors: saved in kept.h5' copse predict "$model" photos --labels labels.txt --save-classifier kept.h5 -o made.csv
expect "and used again" 0 'class vectors: taken from kept.h5' copse predict "$model" photos --labels labels.txt --save-classifier kept.h5 -o used.csv
expect "or loaded, without a tokenizer" 0 'classes: 3 labels of kept.h5.*text: label, 80 templates' \
    copse predict "$model" photos --classifier kept.h5 -o loaded.csv
check "the same rows when made" same labels.csv made.csv
check "used" same labels.csv used.csv
check "and loaded" same labels.csv loaded.csv
expect "other templates make others" 0 'class vectors: saved in kept.h5' \
    copse predict "$model" photos/000003.jpg --labels labels.txt --save-classifier kept.h5 --templates plain
expect "as 16-bit numbers" 0 'saved in half.h5' copse predict "$model" photos/000003.jpg --taxa taxa.csv --templates plain --save-classifier half.h5 --fp16
expect "they load" 0 'photos/000003.jpg,Animalia' copse predict "$model" photos/000003.jpg --classifier half.h5 --rank kingdom -q
sed 's/tiny/other/; s/seed = 1/seed = 2/; s/steps = 4/steps = 1/' tiny.lua >other.lua
check "another model" copse train other.lua --threads 2
other=runs/other/checkpoints/step-00000001.h5
expect_one "refuses the classifier of the first" 64 "kept.h5' was made with another model \(digest [0-9a-f]{16}, this one has" \
    copse predict "$other" photos --classifier kept.h5
expect "unless it is forced" 0 'of another model; --force' copse predict "$other" photos/000003.jpg --classifier kept.h5 --force
expect "another model's file is made again" 0 'saved in kept.h5' copse predict "$other" photos/000003.jpg --labels labels.txt --save-classifier kept.h5 --templates plain
printf 'not an HDF5 file' >text.h5
expect_one "a classifier that is none" 65 'text.h5' copse predict "$model" photos --classifier text.h5
expect_one "a shard is none" 65 'no classifier of Copse|no classifier but a' copse predict "$model" photos --classifier set/test-00000.h5

# ---- the published pair: three pictures' own features stand for three species
cat >publish.lua <<'END'
local from, to, zero = arg[1], arg[2], arg[3] == "zero"
local text = assert(io.open(from, "rb")):read "a"
local length = string.unpack("<I2", text, 9)
local rows, columns = text:sub(11, 10 + length):match "%((%d+), (%d+)%)"
rows, columns = tonumber(rows), tonumber(columns)
local out = {}
for j = 0, columns - 1 do
  for i = 0, rows - 1 do
    local value = string.unpack("<f", text, 11 + length + 4 * (i * columns + j))
    out[#out + 1] = string.pack("<f", zero and i == 1 and 0 or value)
  end
end
local header = ("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }\n"):format(columns, rows)
assert(io.open(to, "wb")):write("\x93NUMPY\1\0", string.pack("<I2", #header), header, table.concat(out)):close()
END
check "features of three pictures" copse embed "$model" photos/000003.jpg photos/000004.jpg photos/000005.jpg -o three.npy --features feature
check "as a published matrix" lua5.4 publish.lua three.npy txt_emb_species.npy
check "with a zero column" lua5.4 publish.lua three.npy zero.npy zero
for name in txt_emb_species zero; do
    printf '[[["a", "b", "c", "d", "e", "F", "three"], "3"], [["a", "b", "c", "d", "e", "F", "four"], "4"], [["a", "b", "c", "d", "e", "G", "five"], ""]]' >$name.json
done
expect "each is most like itself" 0 'photos/000003.jpg,a,b,c,d,e,F,three,F three,3,.*photos/000004.jpg,a,b,c,d,e,F,four,F four,4,.*photos/000005.jpg,a,b,c,d,e,G,five,G five,,' \
    copse predict "$model" photos/000003.jpg photos/000004.jpg photos/000005.jpg --classifier txt_emb_species.npy --k 1 --scale 1000 -q
cat >softmax.lua <<'END'
-- The score of the first picture and class from the features alone, against the file's.
local text, width = assert(io.open(arg[1], "rb")):read "a", 192
local first, scale, sum, own = #text - 3 * width * 4, tonumber(arg[3]), 0
local function row(i)
  local values = {}
  for j = 1, width do values[j] = string.unpack("<f", text, first + 1 + 4 * ((i - 1) * width + j - 1)) end
  return values
end
local one = row(1)
for i = 1, 3 do
  local other, dot = row(i), 0
  for j = 1, width do dot = dot + one[j] * other[j] end
  sum = sum + math.exp(scale * dot - scale)
  own = own or math.exp(scale * dot - scale)
end
for line in io.lines(arg[2]) do
  local score = line:match "^photos/000003.jpg,.*F three,3,([^,]*)$"
  if score then
    print(score, own / sum)
    os.exit(math.abs(score - own / sum) < 2e-5)
  end
end
os.exit(false)
END
expect "scores of one picture" 0 '' copse predict "$model" photos/000003.jpg --classifier txt_emb_species.npy --scale 50 -q -o scores.csv
check "are the softmax of its cosines" lua5.4 softmax.lua three.npy scores.csv 50
expect_one "a zero column is refused by name" 65 "1 of 3 class vectors are zero or not finite: 2 'a b c d e F four'" \
    copse predict "$model" photos --classifier zero.npy
expect_one "a matrix without names" 69 'three.json' copse predict "$model" photos --classifier three.npy
expect_one "a matrix that is none" 65 'labels.txt. is no .npy file' copse predict "$model" photos --classifier labels.txt --names zero.json

# ---- other ways to the model
check "weights as safetensors" copse export "$model" weights.safetensors
expect "plain weights" 0 '' copse predict weights.safetensors photos --labels labels.txt --tokenizer set/tokenizer.txt -q -o weights.csv
check "give the same rows" same labels.csv weights.csv
expect_one "class texts need a tokenizer" 64 'the tokenizer is not known' copse predict weights.safetensors photos --labels labels.txt
mv weights.json away.json
expect_one "plain weights need their sizes" 64 "the sizes of 'weights.safetensors' are not known: give --preset" \
    copse predict weights.safetensors photos --labels labels.txt
expect_one "which --preset tells" 65 'take the preset and sizes that belong to these weights' \
    copse predict weights.safetensors photos --labels labels.txt --tokenizer set/tokenizer.txt --preset ViT-B-32
check "another tokenizer" copse tokenizer train tokens.txt labels.txt set/captions.txt --vocabulary 600
expect_one "is refused" 64 'was trained with another tokenizer' copse predict "$model" photos --labels labels.txt --tokenizer tokens.txt
expect "features of the job's objective" 0 "features: of objective 'clip'" copse predict "$model" photos --labels labels.txt --job tiny.lua --objective -o objective.csv
check "which are clip's towers" same labels.csv objective.csv
expect "other preprocessing" 0 'preprocessing: squash to 64 pixels, bilinear, mean 0.5,0.5,0.5, std 0.25,0.25,0.25' copse predict "$model" photos/000003.jpg \
    --label a --label b --resize squash --interpolation bilinear --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25
expect "products as the machine has them" 0 'machine: 1 ranks of 1 threads, BLAS family .*, (fp32|bf16)' \
    copse predict "$model" photos/000003.jpg --label a --label b --templates plain --precision auto --threads 1
expect_one "a mean of two channels" 64 "'0.5,0.5': three numbers" copse predict "$model" photos --label a --label b --mean 0.5,0.5

# ---- wrong use
expect_one "no classes" 64 'no classes: give the classes by --labels' copse predict "$model" photos
expect_one "classes from two places" 64 'classes from two places' copse predict "$model" photos --labels labels.txt --taxa taxa.csv
expect_one "a rank of labels" 64 '\-\-rank is about taxa' copse predict "$model" photos --labels labels.txt --rank genus
expect_one "no pictures" 64 'no picture is named' copse predict "$model" --labels labels.txt
mkdir empty
expect_one "an empty folder" 64 "the folder 'empty' holds no picture" copse predict "$model" empty --labels labels.txt
expect_one "no model" 64 'no model: copse predict CHECKPOINT' copse predict --labels labels.txt
expect_one "no such model" 69 'nothing.h5' copse predict nothing.h5 photos --labels labels.txt
expect_one "no such templates" 64 "no set of templates 'oaks'; there are: .*bare, bioclip, imagenet" copse predict "$model" photos --labels labels.txt --templates oaks
printf 'without a place\n' >oaks
expect_one "templates without a place" 64 "template 1 is 'without a place'" copse predict "$model" photos --labels labels.txt --templates oaks
printf 'a leaf of {}.\n{}\n' >oaks
expect "templates of a file" 0 "templates: oaks: 2, from 'a leaf of \{\}.' on" copse predict "$model" photos/000003.jpg --labels labels.txt --templates oaks
expect "a template" 0 "templates: a leaf of \{\}.: 1, from" copse predict "$model" photos/000003.jpg --labels labels.txt --templates 'a leaf of {}.'
expect_one "pictures that are not there" 69 "none of the 2 pictures exists: there is no 'fotos' and so on" copse predict "$model" fotos photo.jpg --labels labels.txt
expect_one "nothing that can be read" 65 'none of the 2 pictures could be read' copse predict "$model" photos/broken.jpg missing.jpg --labels labels.txt -o none.csv
check "leaves no output" test ! -e none.csv
expect_one "an output that cannot be" 74 "nowhere/x.csv cannot be written" copse predict "$model" photos --labels labels.txt -o nowhere/x.csv

# ---- logs
expect "a JSON log" 0 '' copse predict "$model" photos --labels labels.txt -q -o logged.csv --log run.json
check "says what was done" sh -c 'tr -d "\n" <run.json | grep -q -E "copse_version.*command_line.*start.*settings.*preprocessing.*unreadable.*photos/broken.jpg.*templates.*end.*outcome.*done.*files.*deeper/000001.jpg"'
expect_one "is never written over" 64 "run.json': the file exists" copse predict "$model" photos --labels labels.txt --log run.json
expect "a text log" 0 '' copse predict "$model" photos --labels labels.txt -q -o logged.csv --log run.log
expect "grows" 0 '' copse predict "$model" photos --labels labels.txt -q -o logged.csv --log run.log
check "by what was done" test "$(grep -c 'not read: photos/broken.jpg' run.log)" -eq 2

# ---- embed
for ending in json csv npy h5; do
    expect "embed .$ending" 0 'features: projected, 192 numbers.*12 encoded, 1 not read' copse embed "$model" photos -o e.$ending
    check "embed .$ending on two ranks" copse embed "$model" photos -o e2.$ending -n 2 --threads 1 -q
    check "the same bytes of .$ending" same e.$ending e2.$ending
done
check "a row a picture that could be read" lines e.csv 13
expect "rows of length 1" 0 '"normalised": true' copse embed "$model" photos/000003.jpg --normalise -q
expect "the pooled output" 0 'features: pooled, 192 numbers' copse embed "$model" photos/000003.jpg --features pooled -o pooled.npy
expect_one "an unknown form" 64 "'e.txt': the ending says the form" copse embed "$model" photos -o e.txt
expect_one "an unknown output" 64 "no output 'tokens'" copse embed "$model" photos --features tokens
expect_one "an unknown tower" 64 "no image tower 'ssl'" copse embed "$model" photos --tower ssl

# ---- signals: a long list ends between two batches and leaves nothing behind
i=0
while [ $i -lt 4000 ]; do
    echo photos/000003.jpg
    i=$((i + 1))
done >long.txt
ends_by() { # ends_by SIGNAL ARGUMENT...
    signal=$1
    shift
    "$COPSE" predict "$model" --list long.txt --labels labels.txt --templates plain --threads 1 -o long.csv "$@" >said 2>&1 &
    process=$!
    tries=0
    until { ls long.csv.tmp.* && grep "^scale: " said; } >/dev/null 2>&1 || [ $tries -eq 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    sleep 0.5
    kill -s "$signal" $process
    wait $process
    ended=$?
    cat said
    [ $ended -eq 1 ] && grep -q 'ended by a signal after [0-9]* of 4000 pictures; nothing is written' said && ! ls long.csv* 2>/dev/null
}
check "Ctrl-C" ends_by INT
check "SIGTERM" ends_by TERM
check "Ctrl-C on two ranks" ends_by INT -n 2

# ---- a full disk
mkdir small
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=4k tmpfs small 2>/dev/null; then
    cleanup="umount '$scratch/small'"
    expect_one "the disk is full" 74 'small/x.csv cannot be written: No space left' copse predict "$model" --list list.txt photos photos photos photos photos photos --labels labels.txt -o small/x.csv
    expect_one "on two ranks" 74 'small/x.csv cannot be written: No space left' \
        copse predict "$model" photos photos photos photos photos photos photos --labels labels.txt -o small/x.csv -n 2 --threads 1
    expect_one "embeddings" 74 'small/x.json cannot be written: No space left' copse embed "$model" photos -o small/x.json
    expect_one "a classifier" 74 'small/c.h5' copse predict "$model" photos --labels labels.txt --save-classifier small/c.h5 -o small-classifier.csv
    check "nothing is left there" test -z "$(ls small)"
else
    skip "the disk is full" "mounting a small file system needs root"
fi
expect_one "standard output is full" 74 'standard output cannot be written: No space left' sh -c "'$COPSE' predict '$model' photos --labels labels.txt >/dev/full"
finish
