"use strict";
document.querySelectorAll(".compare").forEach((box) => {
  const videos = [...box.querySelectorAll("video")];
  const byName = Object.fromEntries(videos.map((v) => [v.dataset.name, v]));
  const wipe = box.querySelector(".wipe"), divider = box.querySelector(".divider"), time = box.querySelector(".time");
  const play = box.querySelector(".play"), label = box.querySelector(".frame"), buttons = [...box.querySelectorAll(".pairs button")];
  const rate = Number(box.dataset.rate), frames = Number(time.max) + 1, clock = videos[0];
  let left = null, right = null, playing = false;

  const cut = () => {
    const x = Number(wipe.value);
    divider.style.left = x + "%";
    divider.hidden = left === right;
    videos.forEach((v) => { v.style.clipPath = ""; v.style.zIndex = 0; });
    if (left !== right) { left.style.clipPath = `inset(0 ${100 - x}% 0 0)`; left.style.zIndex = 1; }
  };
  const choose = (a, b) => {
    left = byName[a]; right = byName[b];
    videos.forEach((v) => v.classList.toggle("shown", v === left || v === right));
    box.querySelector(".tag.left").textContent = a;
    box.querySelector(".tag.right").textContent = a === b ? "" : b;
    box.querySelector(".tag.right").hidden = a === b;
    buttons.forEach((x) => x.setAttribute("aria-pressed", String(x.dataset.left === a && x.dataset.right === b)));
    cut();
  };
  const show = (frame) => { label.value = `${frame + 1} / ${frames}`; time.value = frame; };
  const pause = () => { playing = false; play.textContent = "Play"; videos.forEach((v) => v.pause()); };
  const follow = () => {
    if (!playing) return;
    // One video is the clock; another that is off by more than half a frame is set right.
    videos.slice(1).forEach((v) => { if (Math.abs(v.currentTime - clock.currentTime) > 0.5 / rate) v.currentTime = clock.currentTime; });
    show(Math.min(frames - 1, Math.floor(clock.currentTime * rate + 1e-3)));
    requestAnimationFrame(follow);
  };
  play.addEventListener("click", () => {
    if (playing) { pause(); return; }
    playing = true; play.textContent = "Pause";
    Promise.all(videos.map((v) => v.play())).then(() => requestAnimationFrame(follow)).catch(pause);
  });
  time.addEventListener("input", () => {
    pause();
    const frame = Number(time.value);
    videos.forEach((v) => { v.currentTime = (frame + 0.5) / rate; });
    show(frame);
  });
  wipe.addEventListener("input", cut);
  buttons.forEach((b) => b.addEventListener("click", () => choose(b.dataset.left, b.dataset.right)));
  const first = buttons[0];
  choose(first ? first.dataset.left : videos[0].dataset.name, first ? first.dataset.right : videos[0].dataset.name);
});
