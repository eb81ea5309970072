#!/usr/bin/env bash
# Makes seeds/media/ anew. Not part of any build: the files are committed, because their bytes are what tests expect.
# Needs Debian's ffmpeg, imagemagick, webp, espeak-ng and zip. Encoders differ between versions: after a run, put the
# new sha256 sums (seeds/media/SHA256SUMS) into scenario.json.
set -euo pipefail
convert=/usr/bin/convert # ImageMagick's own, not another program of that name
out="$(cd "$(dirname "$0")" && pwd)/media"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$out"
cd "$tmp"

# hills.jpg: evening sky over two ridges, with film grain
"$convert" -seed 7 -size 960x640 gradient:'#29335c-#f7b267' \
  \( -seed 7 -size 960x640 plasma:fractal -blur 0x12 -colorspace Gray -auto-level \) -compose softlight -composite \
  -fill '#fff1c9' -draw 'circle 690,250 690,302' -blur 0x1.2 \
  -fill '#3a3b5a' -draw 'path "M 0,430 C 150,330 300,420 430,380 S 700,300 960,410 L 960,640 L 0,640 Z"' \
  -fill '#22263f' -draw 'path "M 0,520 C 200,430 350,540 560,480 S 820,440 960,500 L 960,640 L 0,640 Z"' \
  -attenuate 0.25 +noise Gaussian -strip -sampling-factor 4:2:0 -quality 80 "$out/hills.jpg"

# oranges.jpg: a heap of fruit on a wooden table
python3 - > fruit.mvg <<'PY'
import random

random.seed(5)
print("viewbox 0 0 900 675")
for _ in range(70):
    x, y, r = random.randint(0, 900), random.randint(60, 675), random.randint(34, 58)
    colour = random.choice(["#e4572e", "#f3a712", "#d98324", "#f46036", "#ffb238"])
    print(f"fill '{colour}' stroke '#5a2d0c60' stroke-width 2 circle {x},{y} {x + r},{y}")
    print(f"fill '#ffffff55' stroke none circle {x - r // 3},{y - r // 3} {x - r // 3 + r // 5},{y - r // 3}")
PY
"$convert" -seed 11 -size 900x675 plasma:'#6b4f2a-#c89b5a' -blur 0x3 table.png
"$convert" -background none mvg:fruit.mvg fruit.png
"$convert" table.png fruit.png -compose over -composite -blur 0x0.8 -seed 3 -attenuate 0.15 +noise Gaussian \
  -strip -sampling-factor 4:2:0 -quality 74 "$out/oranges.jpg"

# voice.ogg: a synthetic voice, Ogg/Opus mono as WhatsApp's voice notes are
espeak-ng -v en -s 150 -w voice.wav "The van leaves at half past seven, from the north gate."
ffmpeg -v error -y -i voice.wav -t 2.8 -ac 1 -ar 48000 -c:a libopus -b:a 24k -application voip -bitexact "$out/voice.ogg"

# clip.mp4: H.264 with AAC; loop.mp4: silent, as a "GIF" is sent
ffmpeg -v error -y -f lavfi -i "testsrc2=size=320x240:rate=15:duration=1.6" -f lavfi -i "sine=frequency=440:duration=1.6" \
  -c:v libx264 -profile:v baseline -pix_fmt yuv420p -crf 32 -c:a aac -b:a 32k -shortest -movflags +faststart -bitexact "$out/clip.mp4"
ffmpeg -v error -y -f lavfi -i "mandelbrot=size=240x240:rate=10" -t 1 \
  -c:v libx264 -profile:v baseline -pix_fmt yuv420p -crf 34 -an -movflags +faststart -bitexact "$out/loop.mp4"

# list.pdf: one page of text, written by hand
python3 - "$out/list.pdf" <<'PY'
import sys

lines = ["Packing list", "12 crates of oranges", "4 trestle tables", "1 cash box", "2 rolls of tape"]
text = "BT /F1 18 Tf 72 760 Td 26 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
objects = [
    "<< /Type /Catalog /Pages 2 0 R >>",
    "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
    "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
    f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
]
body, offsets = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
for number, content in enumerate(objects, 1):
    offsets.append(len(body))
    body += f"{number} 0 obj\n{content}\nendobj\n".encode()
start = len(body)
body += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
body += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
body += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
open(sys.argv[1], "wb").write(body)
PY

# sticker.webp: 512 x 512 with transparency
"$convert" -size 512x512 xc:none -fill '#ffd23f' -stroke '#3a2e12' -strokewidth 10 -draw 'circle 256,256 256,40' \
  -fill '#3a2e12' -stroke none -draw 'circle 190,210 190,235 circle 322,210 322,235' \
  -fill none -stroke '#3a2e12' -strokewidth 14 -draw 'path "M 160,310 C 200,390 312,390 352,310"' sticker.png
cwebp -quiet -q 70 -metadata none sticker.png -o "$out/sticker.webp"

# notes.docx: the smallest document that a word processor opens; names.zip: a plain archive
python3 - "$out" <<'PY'
import sys
import zipfile

out = sys.argv[1]


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in files.items():
            z.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)


w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
rel = "http://schemas.openxmlformats.org/package/2006/relationships"
archive(f"{out}/notes.docx", {
    "[Content_Types].xml": '<?xml version="1.0" encoding="UTF-8"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
    "_rels/.rels": f'<?xml version="1.0" encoding="UTF-8"?><Relationships xmlns="{rel}"><Relationship Id="r1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>',
    "word/document.xml": f'<?xml version="1.0" encoding="UTF-8"?><w:document xmlns:w="{w}"><w:body><w:p><w:r>'
    "<w:t>Notes of the stall meeting</w:t></w:r></w:p></w:body></w:document>",
})
archive(f"{out}/names.zip", {"names.txt": "Ana\nBen\nChika\n"})
PY

(cd "$out" && rm -f SHA256SUMS && sums="$(sha256sum -- *.*)" && printf "%s\n" "$sums" > SHA256SUMS)
ls -l "$out"
