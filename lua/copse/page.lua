-- Self-contained HTML pages: of a run, of a comparison, of a sweep. They open without a network, refer to nothing outside
-- themselves, and need no script. html.lua has the style, svg.lua and plots.lua the drawings, page_*.lua the sections.
local page = {}

-- facts: gather.run.
function page.run(facts)
  return require("copse.page_run").whole(facts)
end

-- comparison: comparison.json as a table (runtime/report/comparison.md). gathered: gather.comparison, or nil: then the page has
-- neither curves nor pictures.
function page.comparison(comparison, gathered)
  return require("copse.page_comparison").whole(comparison, gathered)
end

-- summary: sweep.summary.
function page.sweep(summary)
  return require("copse.page_sweep").whole(summary)
end

return page
