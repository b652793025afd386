"""Script and language of real sentences; what is no prose is undetermined, and never a finding."""

import pytest
from bp_data.language import language, script

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights, and they are endowed with reason.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren, und sie sind mit Vernunft begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits, et ils sont doués de raison.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos, y están dotados de la razón.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti, e sono dotati di ragione.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos, e são dotados de razão.",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren, en zij zijn begiftigd met het verstand.",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter, och de är utrustade med förnuft.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi w swej godności i prawach, i są obdarzeni rozumem, co jest ważne.",
    "tr": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar, bu bir gerçek ve çok önemli.",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat yang sama, mereka dikaruniai dengan akal.",
    "vi": "Tất cả mọi người sinh ra đều được tự do và bình đẳng, và có lý trí của mình trong cuộc sống.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах, и они не одиноки на земле.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах, і вони не самі на землі.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.",
    "he": "כל בני אדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "ar": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由，在尊严和权利上一律平等，他们赋有理性和良心。",
}


@pytest.mark.parametrize(("code", "text"), SENTENCES.items(), ids=SENTENCES)
def test_sentences(code, text):
    assert language(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "Yes.",
        "OK",
        "x = [i for i in range(10)]",
        "3.14 * r ** 2",
        "🙂🙂🙂",
        "\ud800",
        "def main(): return foo(bar, baz)",
    ],
)
def test_what_is_no_prose_is_undetermined(text):
    assert language(text) == "und"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("hello", "Latin"), ("123 !?", "none"), ("привет", "Cyrillic"), ("東京", "Han"), ("東京へ行く", "Kana"),
     ("the word 東京 in English prose is a city", "Latin"), ("Ελλάδα", "Greek"), ("", "none")],
)  # fmt: skip
def test_scripts(text, expected):
    assert script(text) == expected


def test_only_the_beginning_is_looked_at():
    assert language(SENTENCES["de"] * 10 + SENTENCES["ru"] * 1000) == "de"
