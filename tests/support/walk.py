"""Ways through a page: by mouse or by keyboard alone, with the page's own words, and pictures of it where asked for."""

import io
import os
import re
import time
from pathlib import Path

PICTURES = "THINKTUNE_STUDIO_PICTURES"  # a folder for screenshots and a film; without it none are made
MOST_TABS = 400
PATIENCE_MS = 15 * 60_000  # the machine may be busy
SHOWN_MS, FAST_MS = 2000, 250  # of a picture in the film, and of one while the page is waited for
FRAME_EVERY_MS = 1000
MOST_FAST_FRAMES = 16  # of one waiting
FILM_SIZE = 960, 600

# The name of what has the focus, in the chat page's frame as well.
FOCUSED = """() => {
  let at = document.activeElement;
  while (at?.contentDocument?.activeElement) at = at.contentDocument.activeElement;
  const name = at.ariaLabel || at.labels?.[0]?.innerText || at.innerText || at.placeholder || '';
  return { name: name.trim(), tag: at.tagName, id: at.id };
}"""
WORDS = """async (language) => {
  const files = ['common', 'home', 'rows', 'recipe', 'plan', 'train', 'proof', 'talk', 'take-home'];
  const read = files.map(async (name) => [name, (await import(`/page/words/${name}.js`))[language]]);
  return JSON.parse(JSON.stringify(Object.fromEntries(await Promise.all(read))));
}"""


class Mouse:
    """A reader with a mouse."""

    def __init__(self, page):
        self.page = page

    def press(self, name, role="button"):
        self.page.get_by_role(role, name=name).first.click()

    def write(self, name, text):
        self.page.get_by_label(name).first.fill(text)

    def choose(self, name, option):
        self.page.locator("label", has_text=name).locator("select").first.select_option(label=option)

    def ask(self, question):
        chat = self.page.frame_locator("iframe")
        chat.locator("#question").fill(question)
        chat.locator("#send").click()


class Keys:
    """A reader with a keyboard alone: Tab, Enter, Space and letters."""

    def __init__(self, page):
        self.page = page

    def press(self, name, role="button"):
        self._reach(name)
        self.page.keyboard.press("Space" if role in ("checkbox", "radio") else "Enter")

    def write(self, name, text):
        self._reach(name)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def choose(self, name, option):
        self._reach(name)
        for _ in range(20):
            if self.page.evaluate("document.activeElement.selectedOptions[0].text") == option:
                return
            self.page.keyboard.press("ArrowDown")
        raise AssertionError(f"{name} has no {option}")

    def ask(self, question):
        self._reach(None, id="question")
        self.page.keyboard.type(question)
        self.page.keyboard.press("Enter")

    def _reach(self, name, id=None):
        """Press Tab until something of a name (a text, or a pattern) has the focus."""
        seen = []
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            at = self.page.evaluate(FOCUSED)
            found = at["name"].split("\n")[0]
            seen.append(found)
            if (id and at["id"] == id) or (name and (name.search(found) if isinstance(name, re.Pattern) else found.startswith(name))):  # fmt: skip
                return
        raise AssertionError(f"Tab never reaches {name or id}: {seen[-60:]}")


class Pictures:
    """Pictures of a walk, and a film of them, kept where the environment says; nothing is made without that."""

    def __init__(self, name):
        folder = os.environ.get(PICTURES)
        self.folder = Path(folder) / name if folder else None
        self.frames = []  # (PNG, milliseconds)

    def take(self, page, name):
        """Keep what the page shows as a picture, and for a while in the film."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.frames.append((page.screenshot(), SHOWN_MS))
            (self.folder / f"{name}.png").write_bytes(self.frames[-1][0])

    def watch(self, page, awaited):
        """Wait for something on the page; in the film the waiting is fast."""
        seen = []
        until = time.monotonic() + PATIENCE_MS / 1000
        while self.folder and not awaited.first.is_visible() and time.monotonic() < until:
            seen.append((page.screenshot(), FAST_MS))
            page.wait_for_timeout(FRAME_EVERY_MS)
        self.frames += seen[:: 1 + len(seen) // MOST_FAST_FRAMES]
        awaited.first.wait_for()

    def record(self):
        """Write the film, as an animated WebP, which README pages show."""
        if not self.frames:
            return
        from PIL import Image

        images = [Image.open(io.BytesIO(png)).convert("RGB").resize(FILM_SIZE) for png, _ in self.frames]
        times = [shown for _, shown in self.frames]
        # Each frame is whole (kmax): differences alone would leave shadows of former ones.
        options = {"duration": times, "loop": 0, "quality": 55, "method": 4, "kmin": 0, "kmax": 1}
        images[0].save(self.folder / "walk.webp", save_all=True, append_images=images[1:], **options)
