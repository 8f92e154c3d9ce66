import pytest

from steerguard.critics.text_template import parse_template


def test_the_places_are_filled_and_braces_in_texts_mean_nothing():
    template = parse_template("USER: {prompt} {{sic}} ASSISTANT:{answer}</s>")
    assert template.reads_prompt
    assert template.filled("{answer}", "{0.__class__}") == "USER: {answer} {sic} ASSISTANT:{0.__class__}</s>"


def test_a_template_may_leave_the_prompt_out():
    template = parse_template("{answer}")
    assert not template.reads_prompt
    assert template.filled("unseen", "seen") == "seen"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{prompt}",
        "{answer}{answer}",
        "{prompt}{prompt}{answer}",
        "{answer.__class__}",
        "{answer[0]}",
        "{answer!r}",
        "{answer:>10}",
        "{answer:{prompt}}",
        "{0}{answer}",
        "{}{answer}",
        "{other}{answer}",
        "{answer",
        "answer}",
    ],
)
def test_code_formats_and_other_places_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_template(text)
