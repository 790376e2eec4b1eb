"""Words before a number that tell if it is a phone number, in the languages of ten scripts."""

from __future__ import annotations

import re

_WINDOW = 40  # characters before a number in which a label may stand
_MAX_GAP = {"phone": 24, "other": 10}  # characters between a label and its number
# Words in Latin letters, beside which no other Latin letter may stand
_LATIN_WORDS = (
    r"tel(?:e?fon[eo]?|efoon|ephone|éfono|éphone|efonnummer|epon|efone)?s?|(?:smart|i)?phones?|mobiles?|cell(?:phone|ular)?|"
    r"call|whats ?app|viber|telegram|fax|sms|text|dial|ring|reach|contact|hotline|handy\w*|mobil\w*|anruf\w*|ruf\w*|"
    r"durchwahl|fon|portable|appele[rz]\S*|joindre|numéro|móvil|celular|ll[aá]m\w+|telemóvel|lig(?:ue|ar)|cellulare|"
    r"chiam\w+|komórk\w+|dzwoni\w+|zadzwoń|mobiel\w*|tlf|điện thoại|gọi|sđt|đt|hubungi|puhelin|soita|volejte"
)
# Words in other letters, beside which no other letter may stand
_WORDS = (
    r"тел|телефон\w*|моб\w*|звон\w+|позвон\w+|набер\w+|номер\w*|сот|факс|дзвон\w+|обад\w+|позов\w+|ватсап|вотсап|"
    r"τηλ\w*|κιν\w*|καλέσ\w+|φαξ|επικοινων\w+|טל|नंबर|नम्बर"
)
# Stems that may stand inside a word: these scripts write prefixes, or whole sentences, without a space
_STEMS = (
    r"هاتف|تلفون|جوال|موبايل|موبایل|اتصل|اتصال|واتس|فاكس|رقم|تلفن|تماس|شماره|همراه|فون|موبائل|رابطہ|"
    r"טלפון|נייד|התקשר|סלולר|פלאפון|וואטסאפ|פקס|"
    r"फ\u093cोन|फोन|मोबाइल|कॉल|दूरभाष|संपर्क|सम्पर्क|व्हाट्सएप|"
    r"โทร|เบอร์|มือถือ|ติดต่อ|แฟกซ์|ไลน์|"
    r"电话|電話|手机|手機|致电|致電|拨打|撥打|热线|熱線|联系|聯絡|聯繫|传真|傳真|行動|微信|座机|座機|号码|號碼|"
    r"携帯|連絡|問い?合わ?せ|ファックス|ダイヤル|전화|휴대|핸드폰|연락|번호|문의|팩스|☎"
)
_PHONE = re.compile(
    rf"(?<![a-z\[])(?:{_LATIN_WORDS})(?![a-z])|(?<![^\W\d_])(?:{_WORDS})(?![^\W\d_])|{_STEMS}|\[phone\](?=\W{{0,4}}$)"
)
# Numbers of orders, books, accounts and vacancies
_OTHER = re.compile(
    r"(?<![a-z])(?:isbn(?:-1[03])?|ean|gtin|upc|sku|iban|vat|tax|siret|siren|nip|cnpj|cpf|pesel|krs|hrb|ids?|ref|"
    r"ref\w*nce|referenz\w*|req|requisition|order|ticket|invoice|serial|kennziffer|"
    r"auftrag\w*|rechnung\w*|commande|pedido)(?![a-z])|"
    r"(?<![a-z])(?:job|posting|vacancy|case|code)(?=\W{0,3}(?:n[or](?![a-z])|num|[:#]))|"
    r"(?<![a-z0-9])[a-z]{2}\d\d ?[a-z]{4}(?= ?$)|#(?=\W*$)|"
    r"(?<![^\W\d_])(?:инн|огрн|заказ\w*|артикул|счет|παραγγελ\w+)(?![^\W\d_])|"
    r"رقم الطلب|מספר הזמנה|ऑर्डर|คำสั่งซื้อ|订单|訂單|编号|編號|注文番号|求人番号|주문번호"
)
_GAP = re.compile(r"(?:[^\d\[\]]*[^\d\[\]a-z_])?")  # no other number, and no word that is glued to the number


def label_before(folded: str, start: int) -> str:
    """Return `phone`, `other` or nothing: the kind of the last label right before a number that begins at `start`.

    Args:
        folded: a text as `folded_text` returns it.
        start: place of the number's first character.
    """
    window = folded[max(0, start - _WINDOW) : start]
    ends = {"phone": _last_end(_PHONE, window), "other": _last_end(_OTHER, window)}
    kind = max(ends, key=lambda name: ends[name])
    gap = window[ends[kind] :]
    is_near = ends[kind] > 0 and len(gap) <= _MAX_GAP[kind] and _GAP.fullmatch(gap) is not None
    return kind if is_near else ""


def _last_end(pattern: re.Pattern[str], window: str) -> int:
    return max((match.end() for match in pattern.finditer(window)), default=-1)
