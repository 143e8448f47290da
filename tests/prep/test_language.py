from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.handoff.schemas import CLEAN_DOCUMENTS, LANGUAGE, check_schema
from headrace.prep.clean_shards import clean_shard
from headrace.prep.corpus import load_corpus
from headrace.prep.language import LanguageRules, languages
from headrace.prep.personal_settings import PersonalData
from headrace.prep.rule_sets import QualityRules
from tests.prep.builders import make_corpus, make_raw

TEXTS = {
    "en": "The miller opens the gate and lets the water run down the race to the wheel.",
    "de": "Der Müller öffnet das Tor und lässt das Wasser zum Rad hinunterlaufen.",
    "fr": "Le meunier ouvre la vanne et laisse l'eau descendre vers la roue du moulin.",
    "es": "El molinero abre la compuerta y deja que el agua baje hasta la rueda del molino.",
    "pl": "Młynarz otwiera zastawę i pozwala wodzie spłynąć na koło młyńskie.",
    "tr": "Değirmenci kapağı açar ve suyun çarka doğru akmasına izin verir.",
    "vi": "Người thợ xay mở cửa cống và để nước chảy xuống bánh xe của cối xay.",
    "ru": "Мельник открывает заслонку и пускает воду по жёлобу к колесу.",
    "el": "Ο μυλωνάς ανοίγει το θυρόφραγμα και αφήνει το νερό να τρέξει στον τροχό.",
    "ar": "يفتح الطحان البوابة ويترك الماء يجري في القناة نحو العجلة.",
    "he": "הטוחן פותח את השער ומניח למים לזרום בתעלה אל הגלגל.",
    "hi": "चक्की वाला फाटक खोलता है और पानी को पहिये की ओर बहने देता है।",
    "th": "คนโม่แป้งเปิดประตูน้ำและปล่อยให้น้ำไหลลงไปยังกังหัน",
    "zh": "磨坊主打开闸门，让水顺着水渠流向水轮。",
    "zh-Hant": "磨坊主打開閘門，讓水順著水渠流向水輪。",
    "ja": "粉屋は水門を開け、水を水路に沿って水車まで流します。",
    "ko": "방앗간 주인이 수문을 열어 물이 수로를 따라 물레바퀴로 흐르게 한다.",
}


def told(*texts: str | None, **settings: Any) -> list[str | None]:
    return languages(pl.Series(texts, dtype=pl.String), LanguageRules(**settings)).to_list()


def dropped(*texts: str, **settings: Any) -> dict[str, int]:
    corpus = make_corpus(rules=QualityRules.of("none"), language=LanguageRules(**settings))
    return {rule: count for rule, count in clean_shard(corpus, make_raw(*texts), {}).drops.items() if count}


def test_the_language_of_a_sentence_is_told_in_every_script() -> None:
    assert told(*TEXTS.values()) == list(TEXTS)


def test_numbers_nothing_and_a_mixture_have_no_language() -> None:
    mixture = TEXTS["en"] + " " + TEXTS["ru"] + " " + TEXTS["el"]

    assert told("12 34", "", None, mixture, share_min=0.6) == [None] * 4
    assert told(mixture, share_min=0) != [None]


def test_control_characters_and_a_cut_within_a_character_hide_no_language() -> None:
    coded = "\x1b[1m\x00" + TEXTS["de"] + "\ufffe\U0001fffe"

    assert told(coded, "x" + TEXTS["zh"] * 2000, "xx" + TEXTS["ru"] * 2000) == ["de", "zh", "ru"]


def test_chinese_without_kana_is_never_japanese_and_its_characters_tell_its_form() -> None:
    simplified = [
        "E142: 文件未写入: 写入被 'write' 选项禁用",
        "保存最旧版本的文件；指定文件扩展名",
        "指定在 viminfo 文件中写入的内容的列表",
        "最近使用文件的数量",
    ]
    traditional = ["使用者個人 exrc 設定檔", "為 'git pull' 設定的本機分支：", "第二組使用者・檔案"]

    assert told(*simplified, *traditional) == ["zh"] * len(simplified) + ["zh-Hant"] * len(traditional)
    assert dropped(*simplified, *traditional, keep=("zh",)) == {}


def test_kana_or_a_character_that_japan_alone_writes_makes_a_text_japanese() -> None:
    assert told("設定を変更", "ｺﾝﾃﾝﾂ設定変更", "検索結果一覧") == ["ja"] * 3
    assert told(TEXTS["zh"] + TEXTS["ja"] * 3) == ["ja"]
    # The price: what both could have written is Chinese.
    assert told("優先度") == ["zh-Hant"]


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_texts_have_one_language_or_none_each(texts: list[str]) -> None:
    assert len(told(*texts)) == len(texts)


def test_other_languages_are_dropped_and_a_form_of_a_language_is_that_language() -> None:
    assert dropped(*TEXTS.values(), keep=("en", "zh")) == {"language": len(TEXTS) - 3}
    assert dropped(*TEXTS.values(), keep=("zh-Hant",)) == {"language": len(TEXTS) - 1}


def test_a_text_without_a_language_is_kept_unless_the_corpus_says_otherwise() -> None:
    assert dropped("12 34", keep=("en",)) == {}
    assert dropped("12 34", keep=("en",), keep_unknown=False) == {"language": 1}


def test_placeholders_for_personal_data_tell_no_language() -> None:
    addresses = "anna@firma.de, bernd@firma.de"
    corpus = make_corpus(
        rules=QualityRules.of("none"), language=LanguageRules(keep=("de",)), personal_data=PersonalData()
    )
    cleaned = clean_shard(corpus, make_raw(addresses, f"{TEXTS['de']} {addresses}"), {})

    assert cleaned.documents.column("language").to_pylist() == [None, "de"]
    assert cleaned.documents.column("text").to_pylist()[0] == "<EMAIL>, <EMAIL>"


def test_a_language_may_have_rules_of_its_own_counted_under_its_name() -> None:
    rules = {
        "zh": QualityRules.of("none", words_min=1000),
        "zh-Hant": QualityRules.of("none", words_min=2000),
        "de": QualityRules.of("none", drop_matching={"gates": "Tor"}),
    }
    corpus = make_corpus(rules=QualityRules.of("none", words_min=15), language=LanguageRules(rules=rules))
    texts = [TEXTS["en"], TEXTS["de"], TEXTS["zh"], TEXTS["zh-Hant"], TEXTS["pl"]]
    cleaned = clean_shard(corpus, make_raw(*texts), {})

    assert {rule: count for rule, count in cleaned.drops.items() if count} == {
        "too_few_words": 1,
        "matches_gates_de": 1,
        "too_few_words_zh": 1,
        "too_few_words_zh_Hant": 1,
    }
    assert cleaned.documents.column("language").to_pylist() == ["en"]


def test_the_column_is_there_only_if_the_corpus_asks_for_it() -> None:
    raw = make_raw(*TEXTS.values())
    plain = clean_shard(make_corpus(rules=QualityRules.of("none")), raw, {}).documents
    told = clean_shard(make_corpus(rules=QualityRules.of("none"), language=LanguageRules()), raw, {}).documents

    assert plain.schema.names == CLEAN_DOCUMENTS.names
    assert told.schema.names == [*CLEAN_DOCUMENTS.names, LANGUAGE.name]
    check_schema("clean_documents", told)


def test_a_language_in_a_file_has_the_limits_of_its_rule_set(tmp_path: Path) -> None:
    body = {
        "name": "notes",
        "files": ["a.txt"],
        "prompt": {"user": "Write."},
        "language": {"rules": {"zh": {"set": "web"}}},
    }
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump(body))

    corpus = load_corpus(path)

    assert corpus.language is not None
    assert corpus.language.rules["zh"] == QualityRules.of("web")
    assert corpus.digest != make_corpus().digest


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a language by its name": (
        {"keep": ("german",)},
        "keep must name languages by their codes, got 'german': write de.",
    ),
    "a region": ({"keep": ("pt-BR",)}, "keep must name languages by their codes, got 'pt-BR': write pt."),
    "an old code": ({"rules": {"iw": QualityRules()}}, "rules must name languages by their codes, got 'iw'"),
    "an empty list": ({"keep": ()}, "keep must list at least one language, or be null for all, got an empty list."),
    "rules of what is dropped": (
        {"keep": ("en",), "rules": {"de": QualityRules()}},
        "rules has 'de', which keep drops, got keep ['en'].",
    ),
    "repair by language": (
        {"rules": {"de": QualityRules(broken_characters="repair")}},
        "rules.de.broken_characters must be drop or keep, got repair: texts are repaired before their language is "
        "known; write it in the corpus's own rules.",
    ),
}


@pytest.mark.parametrize("phrase", REFUSALS)
def test_mistakes_are_refused_in_a_sentence(phrase: str) -> None:
    settings, sentence = REFUSALS[phrase]

    with pytest.raises(InvalidInput) as refused:
        LanguageRules(**settings)
    assert str(refused.value).startswith(sentence)
