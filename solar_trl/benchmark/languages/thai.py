"""Thai: noun, number, classifier; no end marks."""

from .language import Language, forms


THAI = Language(
    code="th",
    name="Thai",
    templates={
        "has": "{name} มี {noun} {n} {unit}",
        "event": "{pronoun} {verb} {noun} {n} {unit}{particle}",
        "then": "จากนั้น {pronoun} {verb} {noun} {n} {unit}{particle}",
        "last": "สุดท้าย {pronoun} {verb} {noun} {n} {unit}{particle}",
        "ask": "ตอนนี้ {name} มี {noun} กี่ {unit}",
        "first": "ตอนแรก {name} มี {noun} {n} {unit}",
        "calculation": "{event}: {before} {sign} {amount} = {after}",
        "answer": "คำตอบคือ {n}",
        "stop": "",
    },
    pronouns={"f": "เธอ", "m": "เขา"},
    names=forms(
        ["name"],
        {
            "Anna": "แอนนา",
            "Maria": "มาเรีย",
            "Amina": "อามีนา",
            "Lena": "เลนา",
            "Tom": "ทอม",
            "David": "เดวิด",
            "Juma": "จูมา",
            "Omar": "โอมาร์",
        },
    ),
    nouns=forms(
        ["noun", "unit"],
        {
            "mangoes": ("มะม่วง", "ผล"),
            "oranges": ("ส้ม", "ผล"),
            "bananas": ("กล้วย", "ผล"),
            "eggs": ("ไข่", "ฟอง"),
            "books": ("หนังสือ", "เล่ม"),
            "pens": ("ปากกา", "ด้าม"),
            "chairs": ("เก้าอี้", "ตัว"),
            "cups": ("ถ้วย", "ใบ"),
            "plates": ("จาน", "ใบ"),
            "flowers": ("ดอกไม้", "ดอก"),
            "shirts": ("เสื้อ", "ตัว"),
            "bags": ("กระเป๋า", "ใบ"),
            "keys": ("กุญแจ", "ดอก"),
            "tickets": ("ตั๋ว", "ใบ"),
            "balls": ("ลูกบอล", "ลูก"),
            "coins": ("เหรียญ", "เหรียญ"),
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "ซื้อ",
            "find": "พบ",
            "receive": "ได้รับ",
            "collect": "เก็บ",
            "win": "ชนะได้",
            "take": "หยิบ",
            "sell": "ขาย",
            "lose": "ทำ| หาย",
            "give away": "แจก",
            "return": "คืน",
            "throw away": "ทิ้ง",
            "donate": "บริจาค",
        },
    ),
)
