// a picture opens alone, in its own size: on a phone its small print can be read there
addEventListener("DOMContentLoaded", () => {
  for (const picture of document.querySelectorAll(".bd-article img")) {
    if (picture.closest("a") || picture.closest(".sd-card")) continue;
    const link = document.createElement("a");
    Object.assign(link, { href: picture.src, className: "whole-picture", title: "open this picture alone" });
    picture.replaceWith(link);
    link.append(picture);
  }
});
