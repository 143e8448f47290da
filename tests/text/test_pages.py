from markupsafe import Markup

from headrace.text.pages import escaped, page_environment


def test_a_page_shows_foreign_text_and_keeps_its_own_markup():
    template = page_environment("headrace.rollout").from_string("<p>{{ text }}</p>{{ chart }}{{ number }}")
    page = template.render(text="<b>\u202e\x1b[0m\ntwo", chart=Markup("<svg/>"), number=3)
    assert page == "<p>&lt;b&gt;\\u202e\\x1b[0m\ntwo</p><svg/>3"


def test_text_in_an_attribute_cannot_leave_it():
    assert f'<svg aria-label="{escaped(chr(34) + "><script>" + chr(0x202E))}"/>' == (
        '<svg aria-label="&#34;&gt;&lt;script&gt;\\u202e"/>'
    )
