import pytest

from steerguard.critics.answer_windows import MOST_WINDOWS, answer_windows
from steerguard.errors import CostModelError
from steerguard.testing.tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer("chatml")
PROMPT = "Q: why? A:"
ANSWER = "".join(chr(ord("a") + index % 26) if index % 7 else " " for index in range(300))


def encode(prompt, answer):
    return TOKENIZER(prompt + answer, add_special_tokens=False)["input_ids"]


def windows(answer=ANSWER, *, prompt=PROMPT, max_tokens=64, too_long="windows", encode=encode):
    return answer_windows(
        prompt, answer, encode=encode, tokenizer=TOKENIZER, max_tokens=max_tokens, too_long=too_long, name="judge"
    )


def pieces(found):
    return [TOKENIZER.decode(ids).removeprefix(PROMPT) for ids in found]


@pytest.mark.parametrize("too_long", ["raise", "windows"])
def test_what_fits_is_read_whole(too_long):
    assert windows(max_tokens=310, too_long=too_long) == [encode(PROMPT, ANSWER)]


def test_a_long_answer_raises_by_default_and_the_message_has_no_text():
    with pytest.raises(CostModelError, match="310 tokens") as caught:
        windows(too_long="raise")
    assert ANSWER[:12] not in str(caught.value)


def test_windows_hold_every_character_overlap_by_half_and_fit():
    found = windows()
    parts = pieces(found)
    assert all(len(ids) <= 64 and TOKENIZER.decode(ids).startswith(PROMPT) for ids in found)
    room = 64 - len(PROMPT) - 8
    assert parts[0] == ANSWER[:room]
    assert parts[1] == ANSWER[room // 2 : room // 2 + room]
    assert parts[-1] == ANSWER[-len(parts[-1]) :]
    covered = set()
    for index, part in enumerate(parts):
        covered.update(range(index * (room // 2), index * (room // 2) + len(part)))
    assert covered == set(range(len(ANSWER)))


def test_characters_of_many_tokens_are_not_lost():
    answer = "日本語のテキスト" * 12
    parts = pieces(windows(answer))
    assert all(answer[index : index + 8] in "".join(parts) for index in range(len(answer) - 8))
    assert answer.startswith(parts[0])
    assert answer.endswith(parts[-1])


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(CostModelError, match="room for 16"):
        windows(prompt="x" * 60)
    with pytest.raises(CostModelError, match="room for 0"):
        windows(prompt="x" * 600)


def test_too_many_windows_are_refused():
    with pytest.raises(CostModelError, match=f"at most {MOST_WINDOWS} windows"):
        windows(ANSWER * 30)


def test_a_window_that_grows_when_it_is_encoded_is_refused():
    def growing(prompt, answer):
        return encode(prompt, answer) + ([0] * 20 if answer else [])

    with pytest.raises(CostModelError, match="or longer ones"):
        windows(encode=growing)


def test_a_text_of_which_no_token_is_left_is_refused():
    with pytest.raises(CostModelError, match="leaves nothing"):
        windows("x", encode=lambda *_: [])
