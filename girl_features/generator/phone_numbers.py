"""Phone numbers in a folded text, told from dates, amounts, versions and other numbers by their form.

A stretch of digits and separators is read from left to right. At the start of each group of digits, the forms of other
numbers are tried first, then the forms that only phone numbers have. A number in another form, such as 9123 4567, is a
phone number only behind a label such as `Tel.`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from girl_features.generator.phone_labels import label_before

_SEP = r"[ .()/\-\u30fc\x01]"  # \x01: a folded character without width
_JOIN = r"(?:(?!\. )[ .()\-\u30fc\x01]){0,3}"  # between two digits of one number; ". " ends a sentence
_STRETCH = re.compile(rf"(?:\(?\+[ \x01]?)?\(?\d(?:{_SEP}{{0,4}}\d){{6,}}")
_GROUP = re.compile(r"(?:\(?\+[ \x01]?)?\(?\d+")
_END = r"(?![0-9_]|[.-]\d|(?!x\d|ext)[a-z]{1,9}[0-9_])"  # letters and digits in turn make a key, not a number

_YEAR = r"(?:19|20)\d\d"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = (
    rf"(?:{_YEAR}(?P<a>[./-]){_MONTH}(?P=a){_DAY}|{_DAY}[./-]{_MONTH}[./-]{_YEAR}|{_MONTH}[./-]{_DAY}[./-]{_YEAR}"
    rf"|{_DAY}[./-]{_MONTH}[./-]\d\d|{_MONTH}[./-]{_DAY}[./-]\d\d|{_MONTH}[./-]{_YEAR}|{_YEAR}[./-](?:0[1-9]|1[0-2])|{_YEAR}(?:0[1-9]|1[0-2])"
    rf"(?:0[1-9]|[12]\d|3[01])|{_YEAR})(?!\d)"
)
_LATER_DATE = _DATE.replace("?P<a>", "?P<b>").replace("?P=a", "?P=b")
_TIME = r"(?:[01]?\d|2[0-4])\.[0-5]\d"
_NO_PHONE = re.compile(
    rf"(?:\+ |\()?{_DATE}(?:{_SEP}{{1,3}}{_LATER_DATE}){{0,8}}(?![./-]\d)"
    rf"|{_TIME} ?- ?{_TIME}(?![./-]?\d)"
    r"|(?:0|[1-9]\d{0,3})\.\d{1,20}(?![./-]?\d)"  # decimals
    # groups of thousands; three groups of three may be a phone number, if a label says so
    r"|(?!\d{3}[ .]\d{3}[ .](?!000)\d{3}(?![ .]?\d))[1-9]\d{0,2}(?P<thousand>[ .])\d{3}(?:(?P=thousand)\d{3}){0,5}"
    r"(?![ ./()-]?\d)"
    r"|(?:(?:0|[1-9]\d{0,2})\.){3}(?:0|[1-9]\d{0,2})(?![.-]?\d)"  # IP addresses
    r"|(?!\d\d\.\d{4,5}\.\d{4})(?:0|[1-9]\d?)(?:\.\d{1,5}){2,5}(?![ -]?\d)"  # versions
    r"|97[89](?:[ -]?\d){10}(?!\d)"  # ISBN
    r"|(?<![a-z]{3})(?<=[a-z]{2})\d\d(?: ?\d{4}){3,6}(?: ?\d{1,4})?(?!\d)"  # IBAN
    r"|[1-9]\d{3}(?:[ -]\d{4}){2,6}(?:[ -]\d{1,4})?(?!\d)"  # cards and accounts
)
_COUNTRY = (  # calling codes
    r"7|2[07]|2[1-69]\d|3[0-469]|3[578]\d|4[013-9]|42\d|5[1-8]|5[09]\d|6[0-6]|6[789]\d|8[1246]|8[0578]\d|9[0-58]|9[679]\d"
)
_MOBILE_WITH_COUNTRY = (  # without + or 00
    r"447\d{9}|491[567]\d{8,9}|91[6-9]\d{9}|9715\d{8}|9665\d{8}|9725\d{8}|380[3-9]\d{8}|37529\d{7}|66[689]\d{8}|"
    r"81[789]0\d{8}|8210\d{8}|84[3-9]\d{8}|628\d{8,10}|55\d\d9\d{8}|905\d{9}|3[34][67]\d{8}|393\d{9}|201\d{9}|923\d{9}|"
    r"989\d{9}|234[789]\d{9}|79\d{9}"
)
_INTERNATIONAL = re.compile(
    rf"(?:\(?\+[ \x01]?|\(?00 ?)\(?(?!\d{{1,3}}[ .](?:\d{{3}}[ .])?000[ .]000)"
    rf"(?:1{_JOIN}[2-9]\d\d{_JOIN}\d{{3}}{_JOIN}\d{{4}}"
    rf"|(?:{_COUNTRY})(?:{_JOIN}0)?{_JOIN}[1-9](?:\d{{0,4}}\)? ?/ ?\d(?:{_JOIN}\d){{4,9}}|(?:{_JOIN}\d){{6,12}})){_END}"
)
_NATIONAL = re.compile(
    r"(?:"
    r"0[1-9](?P<pair>[ .-])\d\d(?:(?P=pair)\d\d){3}"  # France
    rf"|\(?0[1-9]\d{{0,4}}\)? ?/ ?\d(?:{_JOIN}\d){{4,8}}|\(?0[1-9](?:{_JOIN}\d){{7,10}}"  # with a leading zero
    r"|0-[2-9]\d{3}-\d{4}"
    r"|(?!\d00 \d00 \d000)(?:1[ .-]?)?\(?[2-9]\d\d\)?(?:[ .-]{0,2}|/ ?)\d{3}[ .-]\d{4}"  # North America and others
    r"|1?[2-9]\d\d[2-9]\d{6}|[6-9]\d{9}|[6-9]\d{4}[ -]\d{5}"  # North America, India
    r"|(?:86-?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}"  # China
    r"|[78][ -]{0,2}\(?[3489](?:[ ()-]{0,2}\d){9}|8[ -]\(?0[1-4](?:[ ()-]{0,2}\d){8}"  # Russia, Belarus
    r"|\((?!19|20)\d ?\d{1,4}\) ?(?!(?:19|20)\d\d[ -])\d{2,5}[ .-]?\d{2,5}(?:[ .-]\d{2,4})?"  # area code in brackets
    r"|[2-9]\d{1,2}[ -]\d{3}[ -]\d\d[ -]\d\d|[6-9]\d\d \d\d \d\d \d\d|[1-9]\d 9\d{4}-?\d{4}|1-?[78]00-\d{3}-\d{3}"
    rf"|{_MOBILE_WITH_COUNTRY}"
    rf"){_END}"
)
_LABELLED = re.compile(
    rf"(?!.{{0,12}}{_YEAR} ?- ?{_YEAR})\(?(?:\d{{2,5}}\)? ?/ ?\d(?:{_JOIN}\d){{4,9}}|\d(?:{_JOIN}\d){{6,14}})(?!\d)"
)
_EXTENSION = re.compile(r"\s?(?:ext\.?|x|доб\.?|转|轉|内線)\s?\d{1,5}(?![a-z0-9])")
_LABELLED_END = re.compile(rf"(?:(?<!\d)\d\d{_SEP}|\d)\d\d$")
_ROUND = re.compile(r"\d*000|\d+00(?:\D+\d+00)+")
_KEY = re.compile(r"\d+(?:[-./_]\d+){0,20}")
_GLUED = re.compile(r"(?:[a-z0-9_]|[a-z]-|\d[.,]|\$|[0-9a-f]{4}-)$")


def phone_numbers(folded: str) -> Iterator[tuple[int, int]]:
    """Yield the place of each phone number, as start and end, in a text as `folded_text` returns it."""
    for stretch in _STRETCH.finditer(folded):
        at, end = stretch.span()
        if (other := _NO_PHONE.match(folded, at)) and other.end() == end:
            continue
        label = label_before(folded, at)
        while group := _GROUP.search(folded, at, end):
            number = _number_at(folded, group.start(), label)
            if number is not None:
                extension = _EXTENSION.match(folded, number)
                at = extension.end() if extension else number
                yield group.start(), at
                label = "phone"
            else:
                other = _NO_PHONE.match(folded, group.start())
                if other is None and _is_glued(folded, group.start()):
                    other = _KEY.match(folded, group.start())
                at = other.end() if other else group.end()
                label = "" if label == "phone" else label


def _number_at(folded: str, start: int, label: str) -> int | None:
    """Return the end of the phone number that begins at `start`, or None."""
    is_glued = _is_glued(folded, start)
    international = _INTERNATIONAL.match(folded, start)
    is_likely = label == "phone" or (not is_glued and (label != "other" or "+" in folded[start : start + 2]))
    if international and is_likely and folded[start - 1 : start] != "+":
        return international.end()
    if _NO_PHONE.match(folded, start):
        return None
    if label != "other" and not is_glued and (national := _NATIONAL.match(folded, start)):
        return national.end()
    labelled = _LABELLED.match(folded, start) if label == "phone" else None
    is_round = labelled and _ROUND.fullmatch(labelled[0])
    return labelled.end() if labelled and not is_round and _LABELLED_END.search(labelled[0]) else None


def _is_glued(folded: str, start: int) -> bool:
    """True if letters, a decimal point or a currency sign before a number say that it is only a part of something."""
    return _GLUED.search(folded[max(0, start - 5) : start]) is not None
