"""Contact details are blacked out in every script, and what only looks like them stays."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from girl_features.generator.phone_labels import label_before
from girl_features.generator.redaction import contact_details, folded_text, redact

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from redaction import counts_of
from redaction_corpus import KINDS, PARTS, SCRIPTS, Part, contact_sentences, plain_sentences

CANARIES = [
    ("write to anna.smith+jobs@mail.example.co.uk today", "write to [email] today"),
    ("o'neil_99@example.org", "[email]"),
    ("anna (at) example.org", "[email]"),
    ("anna @ example.org", "[email]"),
    ("anna at mail dot example dot com", "[email]"),
    ("(0049) 30 1234567", "[phone]"),
    ("📞 9123 4567", "📞 [phone]"),
    ("call +44 20 7946 0958 now", "call [phone] now"),
    ("call +1 (415) 555-0134.", "call [phone]."),
    ("call +1 (415) 555-0134 x12, please", "call [phone], please"),
    ("(415) 555-0134 or 415.555.0134", "[phone] or [phone]"),
    ("Tel. 030 123 456 78", "Tel. [phone]"),
    ("Tel: 9123 4567 / 9123 4568", "Tel: [phone] / [phone]"),
    ("Tel 02-123-4567 / 02-123-4568", "Tel [phone] / [phone]"),
    ("Tel 02 123 4567 / 02 123 4568", "Tel [phone] / [phone]"),
    ("Tel 06 12 34 56 78 06 12 34 56 79", "Tel [phone] [phone]"),
    ("+47 91 23 45 67 / +47 91 23 45 68", "[phone] / [phone]"),
    ("0171/1234567, 030 / 1234567, +49 171/1234567", "[phone], [phone], [phone]"),
    ("mobile 4155550134", "mobile [phone]"),
    ("For this job, 415-555-0134 or 4155550134.", "For this job, [phone] or [phone]."),
    ("see https://anna.example/cv?id=1 and linkedin.com/in/anna", "see [link] and [link]"),
    ("https://example.com/?mail=anna@example.org&x=1 and more", "[link] and more"),
    ("anna@www.example.com", "[email]"),
    ("手机13912345678", "手机[phone]"),
    ("電話は03-1234-5678まで", "電話は[phone]まで"),
    ("電話は０３ー１２３４ー５６７８まで", "電話は[phone]まで"),
    ("网址https://example.com/a?b=1谢谢", "网址[link]谢谢"),
    ("网址：https://例子.公司/a，谢谢", "网址：[link]，谢谢"),
    ("联系我abc@x.com谢谢", "联系我[email]谢谢"),
    ("联系我12345678@qq.com谢谢", "联系我[email]谢谢"),
    ("请写信给 用户@例子.公司谢谢", "请写信给 [email]谢谢"),
    ("ａｂｃ＠ｅｘａｍｐｌｅ．ｃｏｍまで", "[email]まで"),
    ("müller@exämple.de schreiben", "[email] schreiben"),
    ("пишите на иван@пример.рф сейчас", "пишите на [email] сейчас"),
    ("โทร๐๘๑-๒๓๔-๕๖๗๘ค่ะ", "โทร[phone]ค่ะ"),
    ("मोबाइल०९८७६५४३२१०पर", "मोबाइल[phone]पर"),
    ("الهاتف٠٥٠١٢٣٤٥٦٧اليوم", "الهاتف[phone]اليوم"),
    ("טלפון \u200e+972-54-123-4567\u200e", "טלפון \u200e[phone]\u200e"),
    ("이력서는hr@example.kr로", "이력서는[email]로"),
]
OTHERS = [
    "01.09.2024-31.08.2026",
    "Mobile developer (2014-2016): apps",
    "08/15/11 - 08/15/12",
    "C++11 2014, C++ (2011-2013)",
    "+10 000 000 users, +100 000 000 more",
    "react@18.2.0, @types/node@20, next@15.0.0-canary.1",
    "ssh user@host, git@github.com:org/repo.git",
    "use @app.route and @dataclass; write @anna_smith; meet @ 2 pm",
    "Chef @ Example.com",
    "€ 45.000 - 52.000, 45 000 – 52 000, $1,234,567.89, 1'234'567",
    "192.168.10.25, ISBN 978-3-16-148410-0, ISBN 0-306-40615-2",
    "Ref ID: 00240-9734088, JR-2024-0012345, #0012345678",
    "DE89 3704 0044 0532 0130 00 and NL91 ABNA 0417 1643 00",
    "52.520008, 13.404954; 99.999 %; 1 250 000 m²",
    "Mobile, AL\n(AL2203) 1285 Carmichael Way",
    "Phone support supervisor 8027 (2012-2017)",
    "call volume of 1500-2000 a day, or call 1000000 customers",
    "GS-0801/0830/1301-12, 550e8400-e29b-41d4-a716-446655440000",
]


@pytest.mark.parametrize(("text", "wanted"), CANARIES)
def test_contact_details_are_blacked_out(text: str, wanted: str) -> None:
    redacted = redact(text)
    assert redacted.text == wanted
    assert redacted.n_found == wanted.count("[")
    assert redact(redacted.text) == (wanted, 0), "a second look finds nothing"


@pytest.mark.parametrize("text", OTHERS)
def test_what_only_looks_like_a_contact_detail_stays(text: str) -> None:
    assert redact(text) == (text, 0)


@pytest.mark.parametrize("part", PARTS)
def test_contact_details_of_ten_scripts_are_found_whole_and_alone(part: Part) -> None:
    sentences = contact_sentences(part, per_kind=50, seed=1)
    assert len(sentences) >= 1_000
    counts = counts_of(sentences, contact_details)
    for script in SCRIPTS:
        for kind in KINDS:
            count = counts[script, kind]
            assert count.n_found >= 0.99 * count.n, (script, kind)
    assert sum(count.n_beyond for count in counts.values()) <= 0.001 * len(sentences)
    for sentence in sentences:
        again = redact(redact(sentence.text).text)
        assert again.n_found == 0, sentence.text


@pytest.mark.parametrize("part", PARTS)
def test_sentences_without_contact_details_stay_as_they_are(part: Part) -> None:
    sentences = plain_sentences(part, per_script=300, seed=1)
    assert len(sentences) >= 1_000
    wrong = [sentence.text for sentence in sentences if contact_details(sentence.text)]
    assert len(wrong) <= 0.001 * len(sentences), wrong[:5]


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1.",
        ".",
        "@",
        "a@",
        "a@a.",
        "+1 ",
        "www.",
        "x.com/",
        "(at)",
        "联@",
        "я@я.",
        "2014-",
        "tel ",
        "http://",
        " ",
    ],
)
def test_hostile_text_of_a_megabyte_takes_seconds(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.perf_counter()
    redact(text)
    assert time.perf_counter() - began < 30  # a pattern that is not linear takes hours


@pytest.mark.parametrize("unit", ["1 ", "1-", "#1234567 ", "(1", "01 ", "tel 1234567 "])
def test_many_short_numbers_take_time_in_proportion(unit: str) -> None:
    seconds = []
    for n in (20_000, 160_000):
        began = time.perf_counter()
        redact(unit * (n // len(unit)))
        seconds.append(time.perf_counter() - began)
    assert seconds[1] < 30 * seconds[0] + 0.5  # eight times the text; a square would be 64 times


def test_folding_keeps_every_place() -> None:
    text = "".join(chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000)
    folded = folded_text(text)
    assert len(folded) == len(text)
    assert folded_text("٠१๒３－＠．ＡÉ") == "0123-@.aé"


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        ("Tel. ", "phone"),
        ("your order no. ", "other"),
        ("phone for your order: ", "other"),
        ("hotel ", ""),
        ("[phone] and ", ""),
        ("電話番号：", "phone"),
        ("注文番号：", "other"),
    ],
)
def test_the_last_label_counts(before: str, kind: str) -> None:
    assert label_before(folded_text(f"{before}1234567"), len(before)) == kind
