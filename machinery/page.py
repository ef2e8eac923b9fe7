"""The page that `report.py page` writes: a run's responses, tokens coloured by entropy; one file, no network.

The page is HTML below, with the data in the place of __DATA__. Its script shows one response at a time.
"""
import base64
import io
import json

import numpy as np

from machinery.files import write_text
from machinery.pictures import BROKEN, open_image


def inline_image(path, size):
    """An image file as a data: address; None when it cannot be read."""
    try:
        image = open_image(path)
    except BROKEN:
        return None
    image.thumbnail((size, size))
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=85)
    drawing = len(png.getvalue()) < 2 * len(jpeg.getvalue())  # drawings stay PNG, photographs become JPEG
    kind, data = ("png", png) if drawing else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def write_page(path, run, rows, all_rows, image_size):
    """Write the page of these rows (of all_rows in the file). Returns {image path: data: address, or None}.

    rows: dicts of step, id, question, options, images, gold, reward, accuracy, format, advantage, finish,
    tokens, entropy (nats; None where unknown) and critical (indices of the tokens to underline).
    """
    paths = [image for row in rows for image in row["images"]]
    images = {image: inline_image(image, image_size) for image in dict.fromkeys(paths)}
    entropies = np.array([e for row in rows for e in row["entropy"]], float)  # None becomes NaN
    known = entropies[np.isfinite(entropies)]
    # the darkest colour; the one token in a hundred above it shares it
    top = max(0.01, float(np.quantile(known, 0.99))) if len(known) else 1.0
    data = {"run": run, "top": round(top, 2), "rows": rows, "images": images, "all": all_rows}
    # inside <script> only "</" could end the data early; texts are full of it, and to JSON <\/ is the same
    code = json.dumps(data, allow_nan=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    write_text(path, HTML.replace("__DATA__", code))
    return images


HTML = r"""<!doctype html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>rollouts</title><style>
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; display: flex;
       height: 100vh }
nav { width: 230px; flex: none; overflow-y: auto; border-right: 1px solid #ddd; background: #fafafa;
      font-size: 13px }
nav button { display: flex; gap: 8px; width: 100%; border: 0; background: none; padding: 3px 12px;
             font: inherit; cursor: pointer }
nav button[aria-current=true] { background: #dbe9f6 }
nav div { flex: 1; text-align: left } nav span { min-width: 44px; text-align: right; color: #666 }
nav b { width: 14px; color: #b3361b } nav b.right { color: #137a4b }
main { flex: 1; overflow-y: auto; padding: 20px 28px; max-width: 980px }
h1 { font-size: 16px; margin: 0 0 14px; color: #555; font-weight: 500 }
.top { display: flex; gap: 24px; flex-wrap: wrap; align-items: flex-start }
img { display: block; width: 220px; image-rendering: pixelated; border: 1px solid #ccc; margin-bottom: 6px }
img.large { width: auto; max-width: 420px; image-rendering: auto }
.text { flex: 1; min-width: 280px; white-space: pre-wrap }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 12px 0 0 }
dt { color: #666 } dd { margin: 0 }
#answer { white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.9 ui-monospace, monospace;
          margin-top: 18px; border: 1px solid #ddd; border-radius: 6px; padding: 12px 16px }
#answer i { color: #aaa; font-style: normal } .critical { border-bottom: 3px solid #0072b2 }
.legend { display: flex; gap: 10px; align-items: center; margin-top: 18px; font-size: 13px; color: #555;
          flex-wrap: wrap }
.bar { width: 140px; height: 12px; border: 1px solid #ccc;
       background: linear-gradient(90deg, rgba(230,110,0,0), rgba(230,110,0,.85)) }
@media (max-width: 700px) { body { display: block; height: auto } nav { width: auto; max-height: 30vh } }
</style></head><body><nav id="list"></nav><main><h1 id="head"></h1>
<div class="top"><div id="images"></div>
<div class="text"><div id="question"></div><dl id="facts"></dl></div></div>
<div class="legend"><span>token entropy</span> 0 <div class="bar"></div> <span id="max"></span>
<span class="critical">critical word</span>
<span>(arrow keys: next and previous; point at a token for its entropy)</span></div>
<div id="answer"></div></main>
<script id="data" type="application/json">__DATA__</script>
<script>
const at = id => document.getElementById(id), data = JSON.parse(at("data").textContent), rows = data.rows;
const make = (kind, text, where) => {
  const e = document.createElement(kind); e.textContent = text; where.append(e); return e };
let now = -1;

rows.forEach((r, i) => {
  const b = make("button", "", at("list"));
  b.onclick = () => show(i);
  make("b", r.accuracy ? "\u2713" : "\u2717", b).className = r.accuracy ? "right" : "";
  make("div", "step " + r.step, b);
  make("span", Number(r.reward).toFixed(2), b);
  make("span", r.tokens.length + " tok", b);
});

function show(i) {
  if (i < 0 || i >= rows.length) return;
  const r = rows[now = i], buttons = at("list").children, critical = new Set(r.critical);
  for (let j = 0; j < rows.length; j++) buttons[j].setAttribute("aria-current", j === i);
  buttons[i].scrollIntoView({ block: "nearest" });
  at("head").textContent =
    [data.run, "step " + r.step, r.id, `response ${i + 1} of ${rows.length}`].join(" \u00b7 ")
    + (data.all > rows.length ? ` (${data.all} in the file)` : "");
  for (const id of ["images", "facts", "answer"]) at(id).replaceChildren();
  r.images.forEach(p => {
    if (!data.images[p]) return make("div", "image not found: " + p, at("images"));
    const m = make("img", "", at("images"));
    m.alt = p; m.src = data.images[p];
    m.onload = () => { if (m.naturalWidth > 160) m.className = "large" };
  });
  at("question").textContent = r.question
    + r.options.map((o, k) => "\n" + String.fromCharCode(65 + k) + ". " + o).join("");
  const facts = [
    ["gold", r.gold],
    ["reward", `${Number(r.reward).toFixed(2)}  (accuracy ${r.accuracy}, format ${r.format})`],
    ["length", `${r.tokens.length} tokens` + (r.finish === "length" ? ", cut at the limit" : "")]];
  if (r.advantage != null) facts.push(["advantage", Number(r.advantage).toFixed(2)]);
  for (const [k, v] of facts) { make("dt", k, at("facts")); make("dd", v, at("facts")) }
  r.tokens.forEach((t, k) => {
    const s = make("span", "", at("answer")), e = r.entropy[k] ?? NaN;
    t.split("\n").forEach((piece, n) => {
      if (n) { make("i", "\u21b5", s); s.append("\n") }
      s.append(piece) });
    // a token without text: the end of the response, or a part of a character
    if (!t) make("i", "\u25aa", s);
    s.style.background = `rgba(230,110,0,${(0.85 * Math.min(1, (e || 0) / data.top)).toFixed(3)})`;
    s.title = `${JSON.stringify(t)}  ${e.toFixed(2)} nats`;
    if (critical.has(k)) s.className = "critical";
  });
}

document.onkeydown = e => {
  const by = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[e.key];
  if (by) { e.preventDefault(); show(now + by) }
};
at("max").textContent = data.top + " nats and more";
document.title = "rollouts of " + data.run;
show(rows.length - 1);
</script></body></html>
"""
