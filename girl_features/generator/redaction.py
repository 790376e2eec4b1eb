"""Contact details in a text: e-mail addresses, links and phone numbers, found in any script and blacked out.

Text that has no spaces between words, such as Chinese, puts letters directly before and after a contact detail. So only
Latin letters and digits belong to an address, a link or a number written in Latin letters; other letters end it. The
text is first folded: digits of all scripts, full-width signs and dashes become ASCII, one character for one. So a place
in the folded text is the same place in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, NamedTuple

from girl_features.generator.phone_numbers import phone_numbers
from girl_features.generator.words import UNSPACED

_INVISIBLE, _PUNCTUATION = "\x01", "\x02"  # what characters without width, and other marks and signs, are folded to
_FULL_WIDTH_SIGNS = "+-./:@()_%&=#"
_LATIN = "a-z0-9\u00df-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_SPACED = "\u0300-\u0dff\u10a0-\u10ff\u1200-\u167f\u1f00-\u1fff"  # other scripts with spaces between words
_UNSPACED = f"{UNSPACED}\uac00-\ud7a3"  # Korean writes particles directly behind a word
# Top-level domains of scripts in which the next word follows an address directly, so that its end must be known
_UNSPACED_DOMAINS = (
    "中国|中國|公司|网络|網絡|网址|网站|网店|在线|中文网|公益|商城|商店|商标|集团|移动|我爱你|游戏|娱乐|企业|信息|手机|新闻|"
    "购物|机构|组织机构|政府|政务|香港|台湾|台灣|澳门|澳門|新加坡|世界|时尚|佛山|广东|招聘|健康|慈善|餐厅|书籍|食品|"
    "みんな|コム|クラウド|ストア|セール|ファッション|ポイント|한국|닷컴|닷넷|삼성|ไทย|คอม|ລາວ"
)
_AT = re.compile(r"\s?@\s?|\s?([(\[{])\s?(?:at|ät|arroba)\s?[)\]}]\s?")
_DOT = r"(?:\.|\s?[(\[{]\s?(?:dot|punkt|punto|point)\s?[)\]}]\s?)"
_DOMAIN = re.compile(
    rf"(?!\d+\.\d)(?:[{_LATIN}][{_LATIN}-]{{0,62}}{_DOT}){{1,6}}(?:xn--[a-z0-9-]{{1,59}}|[a-z]{{2,24}})"
    rf"|(?:[{_LATIN}{_UNSPACED}-]{{1,63}}\.){{1,4}}(?:{_UNSPACED_DOMAINS})"
    rf"|(?:[0-9{_SPACED}-]{{1,63}}\.){{1,4}}[{_SPACED}]{{2,24}}"
)
_COMMON_DOMAIN = re.compile(r".*\.(?:com|org|net|edu|gov|info|biz|[a-z]{2})")
_IN_WORDS = re.compile(
    r"(?<![a-z0-9._%+-])[a-z0-9._%+-]{1,64} at [a-z0-9-]{1,63}(?: dot [a-z0-9-]{1,63}){0,3}"
    r" dot (?:com|org|net|edu|gov|info)(?![a-z])"
)
# Local parts, read from the @ to the left
_LATIN_LOCAL = re.compile(rf"[{_LATIN}_.%+&'-]{{1,64}}")
_OTHER_LOCAL = re.compile(rf"[0-9_.%+-]{{0,64}}(?:[0-9_.%+{_SPACED}-]{{1,64}}|[0-9_.%+{_UNSPACED}-]{{1,64}})")
_HOSTS = (
    r"(?:linkedin|github|gitlab|facebook|fb|instagram|twitter|x|xing|vk|weibo|zhihu|youtube|tiktok|medium|stackoverflow|"
    r"calendly)\.com|behance\.net|t\.me|wa\.me|line\.me|ok\.ru|linktr\.ee|lnkd\.in|bit\.ly"
)
_LINK = re.compile(
    rf"(?<![a-z0-9])(?:(?:https?|ftp)://(?:(?:[{_LATIN}{_UNSPACED}-]{{1,63}}\.){{1,4}}(?:{_UNSPACED_DOMAINS}))?"
    rf"|www\.(?=\w)|(?:{_HOSTS})/)"
    rf"(?:[^\s<>\"')\]\x01\x02{_UNSPACED}{_SPACED}]|(?<![{_LATIN}])[{_SPACED}]+)+(?<![.,;:!?(])"
)
Kind = Literal["email", "link", "phone"]


class ContactDetail(NamedTuple):
    """The place of a contact detail in a text."""

    start: int
    end: int
    kind: Kind


class Redacted(NamedTuple):
    """A text without contact details."""

    text: str
    n_found: int


def redact(text: str) -> Redacted:
    """Replace contact details in `text` by `[email]`, `[phone]` and `[link]`, and count them."""
    details = contact_details(text)
    pieces, at = [], 0
    for detail in details:
        pieces += [text[at : detail.start], f"[{detail.kind}]"]
        at = detail.end
    return Redacted("".join([*pieces, text[at:]]), len(details))


def contact_details(text: str) -> list[ContactDetail]:
    """Return the contact details in `text`, in order. Those that overlap are one, of the kind of the first."""
    folded = folded_text(text)
    found = [ContactDetail(start, end, "phone") for start, end in phone_numbers(folded)]
    found += [ContactDetail(*match.span(), "link") for match in _LINK.finditer(folded)]
    if " dot " in folded:
        found += [ContactDetail(*match.span(), "email") for match in _IN_WORDS.finditer(folded)]
    found += _emails(text, folded)
    merged: list[ContactDetail] = []
    for detail in sorted(found, key=lambda detail: (detail.start, -detail.end)):
        if merged and detail.start < merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(detail.end, merged[-1].end))
        else:
            merged.append(detail)
    return merged


def folded_text(text: str) -> str:
    """Return `text` in lower case, with ASCII digits, dashes and full-width signs; each character keeps its place."""
    return text.translate(_FOLDED)


class _Folding(dict[int, str]):
    """The folded form of each character, found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _folded(chr(code))
        return folded


_FOLDED = _Folding()


def _folded(character: str) -> str:
    category = unicodedata.category(character)
    plain = unicodedata.normalize("NFKC", character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if character.isascii() or (len(plain) == 1 and plain in _FULL_WIDTH_SIGNS):
        return plain.lower() if len(plain) == 1 else character
    if category[0] in "LM":
        lower = (plain if "\uff21" <= character <= "\uff5a" else character).lower()
        return lower if len(lower) == 1 else character
    by_category = {"Pd": "-", "Zs": " ", "Cf": _INVISIBLE, "Sc": "$"}
    by_character = {"\u2212": "-", "\u00b7": ".", "\u2116": "#"} | dict.fromkeys("☎☏✆📞📱📲", "☎")
    return by_character.get(character) or by_category.get(category, _PUNCTUATION)


def _emails(text: str, folded: str) -> Iterator[ContactDetail]:
    for at in _AT.finditer(folded):
        domain = _DOMAIN.match(folded, at.end())
        if domain is None:
            continue
        start = _start_of_local(folded, at.start(), is_latin=domain[0].isascii())
        end = domain.end()
        last = text.rfind(".", domain.start(), end)
        if text[last + 1 : last + 2].isupper() and text[last - 1].islower() and "." in text[domain.start() : last]:
            end = last  # the next sentence follows without a space
        if start < at.start() and _is_address(text[start : at.start()], at, domain, folded):
            yield ContactDetail(start, end, "email")


def _start_of_local(folded: str, end: int, is_latin: bool) -> int:
    """Return where the local part begins that ends at `end`; `end` if there is none."""
    reversed_text = folded[max(0, end - 64) : end][::-1]
    latin, other = _LATIN_LOCAL.match(reversed_text), _OTHER_LOCAL.match(reversed_text)
    local = latin if latin and (is_latin or any("a" <= c <= "z" for c in latin[0])) else other
    return end - len(local[0].rstrip("'.-%+&")) if local else end


def _is_address(local: str, at: re.Match[str], domain: re.Match[str], folded: str) -> bool:
    """False for `git@host:path`, `Cook @ Example`, and other text in which the @ makes no address."""
    after = folded[domain.end() : domain.end() + 1]
    if local == "git" and after == ":":
        return False
    is_of_two_scripts = domain[0].isascii() and not any("a" <= c <= "z" or c.isdigit() for c in local.lower())
    if (at[1] or at[0] == "@") and not is_of_two_scripts:
        return True
    is_word = at[0] != "@" and local[0].isupper() and local.isalpha()
    return not is_word and _COMMON_DOMAIN.fullmatch(domain[0]) is not None and after not in ("(", "_")
