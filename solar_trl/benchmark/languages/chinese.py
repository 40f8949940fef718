"""Chinese (Mandarin, simplified): number, classifier, noun; "了" after the verb. Words are separated by spaces."""

from .language import Language, forms


CHINESE = Language(
    code="zh",
    name="Chinese",
    templates={
        "has": "{name} 有 {n} {unit} {noun}。",
        "event": "{pronoun} {verb} 了 {n} {unit} {noun}",
        "then": "然后 {pronoun} {verb} 了 {n} {unit} {noun}",
        "last": "最后 {pronoun} {verb} 了 {n} {unit} {noun}",
        "ask": "{name} 现在 有 多少 {unit} {noun}？",
        "first": "一开始 {name} 有 {n} {unit} {noun}。",
        "calculation": "{event}： {before} {sign} {amount} = {after}",
        "answer": "答案是 {n}。",
        "stop": "。",
    },
    pronouns={"f": "她", "m": "他"},
    names=forms(
        ["name"],
        {
            "Anna": "安娜",
            "Maria": "玛丽亚",
            "Amina": "阿米娜",
            "Lena": "莱娜",
            "Tom": "汤姆",
            "David": "大卫",
            "Juma": "朱马",
            "Omar": "奥马尔",
        },
    ),
    nouns=forms(
        ["noun", "unit"],
        {
            "mangoes": ("芒果", "个"),
            "oranges": ("橙子", "个"),
            "bananas": ("香蕉", "根"),
            "eggs": ("鸡蛋", "个"),
            "books": ("书", "本"),
            "pens": ("笔", "支"),
            "chairs": ("椅子", "把"),
            "cups": ("杯子", "个"),
            "plates": ("盘子", "个"),
            "flowers": ("花", "朵"),
            "shirts": ("衬衫", "件"),
            "bags": ("包", "个"),
            "keys": ("钥匙", "把"),
            "tickets": ("票", "张"),
            "balls": ("球", "个"),
            "coins": ("硬币", "枚"),
        },
    ),
    verbs=forms(
        ["verb"],
        {
            "buy": "买",
            "find": "找到",
            "receive": "收到",
            "collect": "收集",
            "win": "赢得",
            "take": "拿",
            "sell": "卖掉",
            "lose": "丢",
            "give away": "送出",
            "return": "退还",
            "throw away": "扔掉",
            "donate": "捐出",
        },
    ),
)
