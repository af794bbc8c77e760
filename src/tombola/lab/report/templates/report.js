// The one script. A slider shows one frame of several; without a script all frames stand one below another.
for (const slides of document.querySelectorAll(".slides")) {
  const slider = slides.querySelector("input");
  if (!slider) continue;
  const frames = [...slides.querySelectorAll(".frame")];
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(slider.value); });
    const name = frames[Number(slider.value)].dataset.name;
    slider.setAttribute("aria-valuetext", name);
    slides.querySelector("output").textContent = name;
  };
  slides.querySelector(".control").hidden = false;
  slider.addEventListener("input", show);
  show();
}
