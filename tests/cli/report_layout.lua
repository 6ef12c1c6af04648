-- lua5.4 report_layout.lua OUT PAGE...: writes a page OUT that shows every PAGE in frames 1280 and 400 pixels wide and, in a
-- browser,
-- adds a paragraph for each: "PAGE WIDTH inner=W scroll=W texts=N overlaps=N cut=N wide=N; ...": texts of drawings that lie on
-- each
-- other or reach out of their drawing, and elements that reach out of the frame, with everything unfolded.
local out = ...

local script = [[
addEventListener("load", function () {
  var found = { texts: 0, overlaps: 0, cut: 0, wide: 0 }, first = "";
  function note(kind, what) { found[kind]++; first = first || kind + ": " + what; }
  document.querySelectorAll("details").forEach(function (one) { one.open = true; });
  document.querySelectorAll("svg").forEach(function (drawing) {
    var view = drawing.viewBox.baseVal, boxes = [];
    drawing.querySelectorAll("text").forEach(function (text) {
      var box = text.getBBox(), says = text.lastChild ? text.lastChild.data : "";
      found.texts++;
      if (box.x < view.x - 1 || box.x + box.width > view.x + view.width + 1 || box.y < view.y - 1 ||
          box.y + box.height > view.y + view.height + 2) { note("cut", says); }
      boxes.forEach(function (other) {
        if (box.x < other.box.x + other.box.width - 0.5 && other.box.x < box.x + box.width - 0.5 &&
            box.y + 2 < other.box.y + other.box.height - 2 && other.box.y + 2 < box.y + box.height - 2) {
          note("overlaps", says + " on " + other.says);
        }
      });
      boxes.push({ box: box, says: says });
    });
  });
  document.querySelectorAll("body *").forEach(function (one) {
    if (one.closest("svg") && !one.matches("svg") || one.closest(".scroll") && !one.matches(".scroll")) { return; }
    var place = one.getBoundingClientRect();
    if (place.right > innerWidth + 0.5 || place.left < -0.5) { note("wide", one.tagName + " " + one.className); }
  });
  var line = parent.document.createElement("p");
  line.textContent = "@PAGE@ @WIDTH@ inner=" + innerWidth + " scroll=" + document.documentElement.scrollWidth +
    " texts=" + found.texts +
    " overlaps=" + found.overlaps + " cut=" + found.cut + " wide=" + found.wide + "; " + first;
  parent.document.body.appendChild(line);
});
]]

local entities = { ["&"] = "&amp;", ['"'] = "&quot;", ["<"] = "&lt;" }

local function frame(path, text, width)
  local own = script:gsub("@%u+@", { ["@PAGE@"] = path, ["@WIDTH@"] = width })
  local watched = text:gsub("</body>", function() return "<script>" .. own .. "</script></body>" end)
  return '<iframe width="' .. width .. '" height="900" style="border:0" srcdoc="' .. watched:gsub('[&"<]', entities)
    .. '"></iframe>'
end

local result = assert(io.open(out, "wb"))
result:write('<!DOCTYPE html><html><head><meta charset="utf-8"></head><body style="margin:0">')
for _, path in ipairs { select(2, ...) } do
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  for _, width in ipairs { "1280", "400" } do result:write(frame(path, text, width)) end
end
result:write "</body></html>"
result:close()
