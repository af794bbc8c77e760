// Draws the charts one after another, so that the page can be read meanwhile; those that are folded away when they
// are shown. Their data are packed: of each column its different values, and which of them each row has.
const rows = (columns) =>
  Object.values(columns)[0][1].map((_, row) =>
    Object.fromEntries(Object.entries(columns).map(([name, [values, at]]) => [name, values[at[row]]])));
const style = getComputedStyle(document.documentElement);
const coloured = (text) => text.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name));

async function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  for (const [name, columns] of Object.entries(spec.datasets)) spec.datasets[name] = rows(columns);
  // Thousands of marks are pixels; an SVG follows the colours of the page when they change.
  const many = Object.values(spec.datasets)[0].length > 2000, text = document.getElementById("config").textContent;
  const config = JSON.parse(many ? coloured(text) : text);
  const options = { config, actions: false, renderer: many ? "canvas" : "svg", ast: true };
  await window.vegaEmbed(figure.querySelector(".canvas"), spec, { ...options, bind: figure.querySelector(".controls") });
  await new Promise((drawn) => setTimeout(drawn));
}

for (const figure of document.querySelectorAll("figure.chart")) {
  const folded = figure.closest("details");
  if (folded) folded.addEventListener("toggle", () => draw(figure), { once: true });
  else await draw(figure);
}
document.documentElement.dataset.drawn = "all";
