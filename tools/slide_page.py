"""What the talk's page looks like: its style sheet, and the script that fits a slide's content to its room.

All sizes are CSS pixels of a slide; the browser scales the slide to its window. The text of a picture 940
wide is 14 pixels high or more, and a slide on a screen of 1080 lines is half as large again.
"""

WIDTH, HEIGHT = 1280, 720  # of a slide

STYLE = """
:root {
  --jp-code-font-size: 17px;
  --jp-code-font-family: "DejaVu Sans Mono", Consolas, Menlo, monospace;
}
.reveal {
  font: 22px/1.4 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: #111;
  background: #fff;
}
.reveal .slides { text-align: left }
.reveal .slides, .reveal .slides * { box-sizing: border-box }
.reveal .slides > section { padding: 0 }
.reveal .slides > section > section { padding: 16px 56px 6px }

.reveal h1 { font-size: 46px }
.reveal :is(p, ul) + h1 { margin-top: 56px }
.reveal :is(h2, h3) { font-size: 34px }
.reveal :is(h1, h2, h3) { line-height: 1.2; margin: 0 0 10px; color: #1b4f72 }

.reveal .jp-Cell { padding: 0; margin: 0 0 6px }
.reveal .jp-Cell :is(p, ol, ul, table) { margin: 0 0 10px }
.reveal .jp-Cell pre { margin: 0 0 4px }
.reveal :is(.jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser) { display: none }

.reveal .jp-RenderedHTMLCommon { font-size: 22px; color: #111; padding: 0 }
.reveal .jp-RenderedHTMLCommon:has(h1) { font-size: 27px }
.reveal .jp-RenderedHTMLCommon table { font-size: 17px; margin-left: 0 }
.reveal .jp-RenderedHTMLCommon :is(td, th) { text-align: left; max-width: 620px; white-space: normal }

.reveal :is(p, li, td) code { white-space: nowrap }
.reveal .jp-Cell pre, .reveal .jp-Cell pre code {
  white-space: pre-wrap;
  word-break: normal;
  overflow-wrap: anywhere;
}
.reveal .highlight { margin: 0 }
.reveal .highlight pre { margin: 0; padding: 6px 12px }

.reveal :is(.jp-Cell-outputWrapper, .jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output) {
  display: block;
  width: 100%;
}
.reveal .jp-OutputArea-output { padding-left: 12px; border-left: 4px solid #b9770e }
.reveal div.jp-OutputArea-output > pre { width: 100% }
.reveal .progress { color: #1b4f72 }
.reveal img { max-height: 320px; max-width: 100%; margin: 0; display: block }
.reveal .jp-OutputArea-output :is(td, th) { padding: 3px 8px; font-size: 16px; line-height: 1.25 }
.reveal .jp-OutputArea-output p { font-size: 17px; line-height: 1.25; margin: 0 0 6px }
"""

# Runs on each slide when it is first shown. Short cells of tables stay in one line. Tables have
# the largest text that there is room for; on a slide with pictures, those take the room that is left.
FIT = """
const ROOM = Reveal.getConfig().height - 8, LARGEST_TEXT = 23, LEAST_TEXT = 14, SHORT = 24;
const isNarrow = (slide) => [...slide.querySelectorAll('table')].every(
    (table) => table.offsetWidth <= table.parentElement.clientWidth + 1);
const fits = (slide) => slide.scrollHeight <= ROOM && isNarrow(slide);

function keepShortCells(slide) {
    for (const cell of slide.querySelectorAll('td, th')) {
        if (cell.textContent.trim().length > SHORT || cell.querySelector('br')) continue;
        cell.style.whiteSpace = 'nowrap';
        if (!isNarrow(slide)) cell.style.whiteSpace = '';
    }
}

function fitTables(slide) {
    const cells = slide.querySelectorAll('td, th');
    for (let size = LARGEST_TEXT; size >= LEAST_TEXT; size -= 1) {
        cells.forEach((cell) => { cell.style.fontSize = `${size}px`; });
        if (fits(slide)) return;
    }
}

function growPictures(slide) {
    const pictures = [...slide.querySelectorAll('img')].filter((picture) => picture.naturalWidth);
    if (!pictures.length) return;
    const set = (height) => pictures.forEach((picture) => {
        const shape = picture.naturalWidth / picture.naturalHeight;
        const width = Math.min(height * shape, picture.parentElement.clientWidth);
        Object.assign(picture.style, {width: `${width}px`, height: `${width / shape}px`, maxHeight: 'none'});
    });
    for (let height = ROOM; height > 100; height -= 8) {
        set(height);
        if (fits(slide)) return;
    }
}

function fit() {
    const slide = Reveal.getCurrentSlide();
    if (!slide || slide.dataset.fitted || document.readyState !== 'complete') return;
    slide.dataset.fitted = 'yes';
    keepShortCells(slide);
    if (slide.querySelector('img')) growPictures(slide);
    else fitTables(slide);
}

Reveal.on('ready', fit);
Reveal.on('slidechanged', fit);
addEventListener('load', fit);
"""
