// Names and roles that components of Gradio 6.31 lack, found by axe-core (tests/test_app_accessibility.py).
const NAMES = { preview: "Photo: a click moves the crop", heat: "Map over the photo", pair: "Before and after" };

const PATCHES = {
  // A name that is not the text that is seen: who speaks to the computer says the text.
  "button[aria-label='Click to upload or drop files'], .thumbnail-item[aria-label]": (item) => {
    if (item.innerText.trim()) item.removeAttribute("aria-label");
  },
  // A name on an element without a role.
  "div.empty[aria-label]:not([role])": (item) => item.setAttribute("role", "img"),
  // A picture in a button, both without a name.
  ".image-container > button:not([aria-label])": (item) => {
    item.setAttribute("aria-label", NAMES[item.closest("[id]")?.id] ?? "Picture");
  },
  // A button in a button, under the key of a text that Gradio does not have: the inner one is left to the outer one.
  "button[aria-label='common.upload']": (item) => {
    item.setAttribute("aria-label", "Add photos");
    item.title = "Add photos";
    const inner = item.querySelector("div");
    inner.inert = true;
    item.addEventListener("click", (event) => {
      if (event.target === item) inner.querySelector("input").click();
    });
  },
};

function patch() {
  for (const [selector, change] of Object.entries(PATCHES)) document.querySelectorAll(selector).forEach(change);
}

new MutationObserver(patch).observe(document, { childList: true, subtree: true });
