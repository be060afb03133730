"""The reference machine: what reaches its output, how it samples, its vocabulary; and the text that tokens become."""

import math
from codecs import getincrementaldecoder
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tokix.kernel.arch.toy import ALPHABET, END, MARKS, ToyMachine, choose, draw, logits
from tokix.kernel.calls.compute import Text
from tokix.kernel.events import Row, Sampling, Tick
from tokix.kernel.frames import FRAME, frames_for
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Think

FRAMES = 8
GREEDY = Sampling("greedy")

deterministic = settings(derandomize=True, deadline=None, max_examples=100)
sequences = st.lists(st.integers(0, END), min_size=1, max_size=4 * FRAME)
samplings = st.builds(
    Sampling, st.text(max_size=5), st.floats(0.1, 5), st.floats(0.05, 1), st.integers(0, 30), schema=st.just("")
)
scores = st.lists(st.integers(0, 255).map(lambda byte: byte / 32), min_size=1, max_size=len(ALPHABET))


class Scored(ToyMachine):
    """A toy machine that tells the scores it sampled from: they are its output, before a token hides most of it."""

    def __init__(self):
        super().__init__(FRAMES, FRAMES * FRAME)
        self.scores = []

    def choose(self, scores, sampling, position):
        self.scores = scores
        return super().choose(scores, sampling, position)


def feed(machine, table, tokens, start=0, copies=()):
    """Feed tokens at positions start… and give the scores of what follows."""
    machine.run(Tick(1, [Row(tuple(table), start, list(tokens), GREEDY)], list(copies)))
    return machine.scores


def again(machine, table, tokens):
    """The scores after the last token, when all in front of it are in memory."""
    return feed(machine, table, tokens[-1:], len(tokens) - 1)


@pytest.fixture(name="machine")
def new_machine():
    return Scored()


# ---- what reaches the output


@st.composite
def loaded(draw, least=1):
    """A machine with a sequence in its frames, in any order, and garbage in the others.

    Gives (machine, table, tokens, scores).
    """
    machine, table = Scored(), draw(st.permutations(range(FRAMES)))
    tokens = draw(st.lists(st.integers(0, END), min_size=least, max_size=4 * FRAME))
    for frame in range(FRAMES):
        feed(machine, [frame], [END + 1 + frame] * FRAME)
    return machine, table, tokens, feed(machine, table, tokens)


@deterministic
@given(loaded(), st.data())
def test_any_reachable_token_changes_the_output(case, data):
    machine, table, tokens, before = case
    place = data.draw(st.integers(0, len(tokens) - 1))
    tokens[place] = (tokens[place] + data.draw(st.integers(1, END))) % (END + 1)
    machine.write(Row(tuple(table), place, [tokens[place]], None))
    assert again(machine, table, tokens) != before


@deterministic
@given(loaded(least=2), st.data())
def test_the_position_of_any_reachable_token_changes_the_output(case, data):
    machine, table, tokens, before = case
    place = data.draw(st.integers(0, len(tokens) - 2))
    elsewhere = place + FRAME * data.draw(st.integers(1, FRAMES - 1))
    frame = table[place // FRAME]
    machine.write(Row((frame,) * 2 * FRAMES, elsewhere, [tokens[place]], None))
    assert again(machine, table, tokens) != before


@deterministic
@given(loaded(least=2), st.data())
def test_a_wrong_frame_in_the_table_changes_the_output(case, data):
    machine, table, tokens, before = case
    place = data.draw(st.integers(0, (len(tokens) - 2) // FRAME))
    other = data.draw(st.integers(0, FRAMES - 1).filter(lambda other: other != place))
    table[place] = table[other]
    assert again(machine, table, tokens) != before


@deterministic
@given(loaded(least=FRAME + 2))
def test_two_frames_in_the_wrong_order_change_the_output(case):
    machine, table, tokens, before = case
    table[:2] = table[1], table[0]
    assert again(machine, table, tokens) != before


@deterministic
@given(loaded(), st.data())
def test_a_token_that_was_never_fed_changes_the_output(case, data):
    _, table, tokens, before = case
    machine, gap = Scored(), data.draw(st.integers(0, len(tokens) - 1))
    feed(machine, table, tokens[:gap])
    assert feed(machine, table, tokens[gap + 1 :], gap + 1) != before


@deterministic
@given(loaded(), st.integers(0, 3))
def test_unreachable_slots_do_not_change_the_output(case, shift):
    machine, table, tokens, before = case
    beyond = FRAMES * FRAME - len(tokens)
    machine.write(Row(tuple(table), len(tokens), [9] * beyond, None))
    assert again(machine, table, tokens) == before
    for frame in table[frames_for(len(tokens)) :]:
        machine.write(Row((frame,) * FRAMES, shift * FRAME, [*range(FRAME)], None))
    assert again(machine, table, tokens) == before


@pytest.mark.parametrize("copies", [[(0, 1)], []], ids=["copied", "not copied"])
def test_a_missing_copy_changes_the_output(machine, copies):
    feed(machine, [0], b"one prefix")
    alone = feed(Scored(), [0], b"one prefix here")
    assert (feed(machine, [1], b" here", len("one prefix"), copies) == alone) is bool(copies)


def test_copies_come_before_rows(machine):
    feed(machine, [0], b"one")
    tick = Tick(2, [Row((0,), 3, [*b"A"], GREEDY), Row((1,), 3, [*b"B"], GREEDY)], [(0, 1)])
    [a, b] = machine.run(tick)
    assert a == ToyMachine().continuation([*b"oneA"], GREEDY, 1)[0]
    assert b == ToyMachine().continuation([*b"oneB"], GREEDY, 1)[0]


@deterministic
@given(sequences, st.permutations(range(FRAMES)), st.lists(st.integers(1, 20)))
def test_neither_chunks_nor_frames_change_the_output(tokens, table, chunks):
    whole, pieces, start = feed(Scored(), range(FRAMES), tokens), Scored(), 0
    for chunk in [*chunks, len(tokens)]:
        if start < len(tokens):
            feed(pieces, table, tokens[start : start + chunk], start)
            start += chunk
    assert pieces.scores == whole


def test_a_row_without_sampling_gives_no_token_and_rows_do_not_see_each_other(machine):
    rows = [Row((0,), 0, [*b"a"], None), Row((1,), 0, [*b"b"], GREEDY), Row((2,), 0, [*b"c"], GREEDY)]
    nothing, *both = machine.run(Tick(1, rows, []))
    assert nothing is None
    assert both == [ToyMachine().continuation([*text], GREEDY, 1)[0] for text in (b"b", b"c")]


@deterministic
@given(sequences, samplings)
def test_with_frames_it_says_what_it_says_without(tokens, sampling):
    assume(tokens[-1] != END)
    machine, table = ToyMachine(FRAMES, ends=False), tuple(range(FRAMES))
    expected, said = machine.continuation(tokens, sampling, 20), list[int]()
    [token] = machine.run(Tick(1, [Row(table, 0, tokens, sampling)], []))
    while len(said) < 20:
        assert token is not None
        said.append(token)
        [token] = machine.run(Tick(1, [Row(table, len(tokens) + len(said) - 1, [token], sampling)], []))
    assert said == expected


# ---- sampling


@deterministic
@given(scores, st.integers(0, 1000))
def test_greedy_is_the_best_and_of_equals_the_first(scores, position):
    assert choose(scores, GREEDY, position) == scores.index(max(scores))


@deterministic
@given(scores, samplings, st.integers(0, 1000))
def test_the_best_one_alone_is_greedy(scores, sampling, position):
    best = scores.index(max(scores))
    assert choose(scores, sampling._replace(top_k=1), position) == best
    assert choose(scores, sampling._replace(top_p=1e-9), position) == best
    assert scores[choose(scores, Sampling(sampling.stream, 1e-300), position)] == scores[best]


@deterministic
@given(scores, samplings, st.integers(0, 1000))
def test_it_samples_within_top_k_and_the_smallest_set_that_reaches_top_p(scores, sampling, position):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: sampling.top_k or len(scores)]
    shares = softmax([scores[i] for i in order], sampling.temperature)
    place = order.index(choose(scores, sampling, position))
    assert sum(shares[:place]) < sampling.top_p + 1e-9


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.8)])
def test_the_frequencies_are_those_of_the_softmax(temperature, top_k, top_p):
    scores, draws = logits([b"some context"], 12), 8000
    kept = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: top_k or None]
    shares = softmax([scores[i] for i in kept], temperature)
    nucleus = next(n for n in range(1, len(kept) + 1) if sum(shares[:n]) >= top_p - 1e-12)
    expected = {i: share / sum(shares[:nucleus]) for i, share in zip(kept[:nucleus], shares, strict=False)}
    sampling = Sampling("frequencies", temperature, top_p, top_k)
    found = Counter(choose(scores, sampling, position) for position in range(draws))
    assert found.keys() <= expected.keys()
    for i, share in expected.items():
        assert abs(found[i] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws) + 1e-3


def softmax(scores, temperature):
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def test_the_random_numbers_are_even_and_belong_to_stream_and_position():
    found = [draw("stream", position) for position in range(10_000)]
    assert found == [draw("stream", position) for position in range(10_000)]
    assert len({*found, *(draw("another", position) for position in range(10_000))}) == 20_000
    for tenth in Counter(int(10 * number) for number in found).values():
        assert abs(tenth - 1000) < 4 * math.sqrt(1000)


def test_streams_differ_and_the_same_stream_says_the_same():
    prompt, machine = [*b"prompt"], ToyMachine(ends=False)
    said = [machine.continuation(prompt, Sampling(f"={seed}", 1.0), 30) for seed in range(20)]
    assert len({tuple(tokens) for tokens in said}) == 20
    assert said == [ToyMachine(ends=False).continuation(prompt, Sampling(f"={seed}", 1.0), 30) for seed in range(20)]


@deterministic
@given(sequences, samplings, st.integers(1, 15))
def test_a_continuation_that_is_interrupted_goes_on_as_it_would_have(tokens, sampling, cut):
    assume(tokens[-1] != END)
    machine = ToyMachine(ends=False)
    whole = machine.continuation(tokens, sampling, 16)
    assert machine.continuation(tokens + whole[:cut], sampling, 16 - cut) == whole[cut:]


def test_it_ends_by_itself_if_it_may():
    sampling = Sampling("ends", 2.0)
    said = ToyMachine().continuation([*b"x"], sampling, 2000)
    assert said.count(END) == 1
    assert said[-1] == END
    assert END not in ToyMachine(ends=False).continuation([*b"x"], sampling, 500)


# ---- vocabulary


@deterministic
@given(st.text())
@example("Grüße, 世界 👩\u200d🚀\N{COMBINING ACUTE ACCENT}\0\n")
def test_text_comes_back_from_its_tokens(text):
    machine = ToyMachine()
    assert b"".join(map(machine.piece, machine.encode(text))).decode() == text
    assert len(machine.encode(text)) == len(text.encode())


@pytest.mark.parametrize("role", MARKS)
def test_a_rendered_page_is_its_text_between_two_marks_that_have_none(role):
    machine = ToyMachine()
    mark, *tokens, end = machine.render(role, "Grüße")
    assert (mark, end) == (MARKS[role], END)
    assert tokens == machine.encode("Grüße")
    assert machine.piece(mark) == machine.piece(end) == b""
    assert machine.opening() == [MARKS["assistant"]]
    assert {end} == machine.stops == {*machine.closing()}


def test_no_two_pages_render_to_the_same_tokens():
    machine = ToyMachine()
    pages = [(role, text) for role in MARKS for text in ("", "a", "ab", "b")]
    assert len({tuple(machine.render(*page)) for page in pages}) == len(pages)


# ---- tokens become text


def said(pieces, stops=()):
    """What a reader sees, piece by piece and then the rest, and the whole text in the end."""
    text, shown = Text(list(stops)), []
    for piece in pieces:
        text.add(piece)
        shown.append(text.show())
        if text.cut >= 0:
            break
    text.add(b"", final=True)
    shown.append(text.show(final=True))
    return shown, text.text


def letters(text):
    """One byte in each piece."""
    return [bytes([byte]) for byte in text.encode()]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (letters("é!"), ["", "é", "!", ""]),
        (letters("👍"), ["", "", "", "👍", ""]),
        ([b"a\xf0\x9f", b"\x91\x8db"], ["a", "👍b", ""]),
        ([b"\xe4\xb8", b"\x96\xe7", b"\x95\x8c"], ["", "世", "界", ""]),
    ],
)
def test_incomplete_utf8_is_held_back(pieces, shown):
    assert said(pieces)[0] == shown


@pytest.mark.parametrize(
    ("pieces", "text"),
    [([b"a\xf0\x9f"], "a\ufffd"), ([b"\xff", b"a"], "\ufffda"), ([b"\xc3", b"a"], "\ufffda"), ([b"\x80"], "\ufffd")],
)
def test_bytes_that_never_become_a_character_are_replaced(pieces, text):
    shown, whole = said(pieces)
    assert "".join(shown) == whole == text


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (letters("one\n\ntwo"), ["\n\n"], "one"),
        ([b"one\n", b"\ntwo"], ["\n\n"], "one"),
        ([b"one\n\ntwo\n\nthree"], ["\n\n"], "one"),
        (letters("User: hi"), ["User:"], ""),
        ([b"User: hi"], ["User:"], ""),
        (letters("xyz"), ["z", "y"], "x"),
        ([b"xyz"], ["z", "y"], "x"),
        (letters("aaab"), ["aab", "ab"], "a"),
        ([b"a", b"aab"], ["ab", "aab"], "a"),
        (letters("aaa"), ["aa"], ""),
        (letters("abc"), ["abc", "ab"], ""),
        (letters("abcabd"), ["abd"], "abc"),
        (letters("ababac"), ["abac"], "ab"),
        (letters("so 👍👎"), ["👎"], "so 👍"),
        ([b"so \xf0\x9f", b"\x91\x8d!"], ["👍"], "so "),
        (letters("e\u0301"), ["\u0301"], "e"),
        (letters("end"), ["d"], "en"),
        (letters("end"), ["dd", "ends"], "end"),
        (letters("end"), [""], "end"),
        (letters("stop here"), ["", "here"], "stop "),
    ],
)
def test_the_text_ends_before_the_first_stop_string(pieces, stops, text):
    shown, whole = said(pieces, stops)
    assert whole == text
    assert "".join(shown) == text


def test_what_could_begin_a_stop_string_is_not_shown_before_it_is_clear():
    shown, whole = said(letters("aXYbXYZc"), ["XYZ"])
    assert shown == ["", "", "a", "X", "Y", "b", "", ""]
    assert whole == "aXYb"


def test_text_behind_a_stop_string_is_never_shown_not_even_as_half_a_character():
    """A token may hold the stop string and the first bytes of the next character, as in ' \\xf0\\x9f'."""
    shown, whole = said([b"one", b"\n\xf0\x9f"], ["\n"])
    assert whole == "one"
    assert "".join(shown) == "one"


BITS = [b"a", b"b", b"ab", b"\xc3", b"\xa9", "é".encode(), "👍".encode(), b"\xf0\x9f", b"a\xf0\x9f", b"\x91\x8d"]
bits = st.sampled_from(BITS)
stop_strings = st.lists(st.text("abé👍", max_size=4), max_size=4)


@settings(deterministic, max_examples=500)
@given(st.lists(bits | st.just(b""), max_size=25), stop_strings)
def test_the_pieces_that_are_shown_are_the_text(pieces, stops):
    shown, whole = said(pieces, stops)
    assert "".join(shown) == whole == model(pieces, stops)


@settings(deterministic, max_examples=200)
@given(st.lists(bits, max_size=25), stop_strings)
def test_what_is_shown_lags_by_less_than_the_longest_stop_string(pieces, stops):
    shown, whole = said(pieces, stops)[0], model(pieces, stops)
    lag = max([1, *map(len, stops)]) - 1
    for n in range(1, len(shown)):
        assert len("".join(shown[:n])) >= min(len(whole), len(decoded(pieces[:n])) - lag)


def model(pieces, stops):
    """After each piece, look for every stop string in all the text that there is."""
    for text in [*(decoded(pieces[:n]) for n in range(len(pieces) + 1)), decoded(pieces, final=True)]:
        if places := [text.find(stop) for stop in stops if stop and stop in text]:
            return text[: min(places)]
    return text


def decoded(pieces, final=False):
    return getincrementaldecoder("utf-8")("replace").decode(b"".join(pieces), final)


# ---- the same, through a kernel


class Scripted(ToyMachine):
    """A machine that says what it is told, a token for each piece."""

    def __init__(self, pieces):
        super().__init__()
        self.pieces = pieces

    def piece(self, token):
        return self.pieces[token - 1000] if token >= 1000 else super().piece(token)

    def sample(self, row):
        token = max(row.feed[-1] + 1, 1000)
        return token if token < 1000 + len(self.pieces) else END


def think(pieces, **options):
    """One Think of a machine that says these pieces; gives the completion, and what was shown if it streams."""
    replies = []

    async def init():
        replies.append(await Think(prompt="go", **options))

    sim = Simulation({"init": init}, MemoryStore(), machine=Scripted(pieces)).run()
    sim.kernel.check()
    [reply] = replies
    return reply, sim.world.output()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("pieces", "options", "text", "tokens", "reason"),
    [
        ([b"one", b" two"], {}, "one two", 2, "stop"),
        ([b"one", b" two"], {"max_tokens": 1}, "one", 1, "length"),
        ([b"one", b" two"], {"max_tokens": 2}, "one two", 2, "length"),
        ([b"one", b" ", b"two"], {"stop": [" "]}, "one", 1, "stop"),
        ([b"one", b" t", b"wo"], {"stop": ["two"]}, "one ", 1, "stop"),
        ([b"one", b" two"], {"stop": ["o"]}, "", 0, "stop"),
        ([b"\xf0\x9f", b"\x91\x8d", b"!"], {"stop": ["!"]}, "👍", 2, "stop"),
        ([b"a", b"\xf0\x9f", b"\x91\x8d"], {"max_tokens": 2}, "a\ufffd", 2, "length"),
        ([b"a", b"", b"b", b"c"], {"stop": ["b"]}, "a", 2, "stop"),
    ],
)
def test_a_completion_has_the_tokens_whose_text_lies_before_the_end(pieces, options, text, tokens, reason, stream):
    reply, shown = think(pieces, stream=stream, **options)
    assert (reply.text, reply.tokens, reply.reason) == (text, [*range(1000, 1000 + tokens)], reason)
    assert shown == (text if stream else "")


def test_the_tokens_of_a_completion_end_with_a_whole_character():
    """The stop string begins in the middle of a token of a character that takes several."""
    reply, _ = think([b"a", b"\xf0\x9f", b"\x91\x8d"], stop=["👍"])
    assert reply.text == "a"
    assert reply.tokens == [1000]


@settings(deterministic, max_examples=80)
@given(st.lists(bits, max_size=12), stop_strings)
def test_a_stream_shows_the_text_of_the_completion(pieces, stops):
    reply, shown = think(pieces, stop=stops, stream=True)
    assert shown == reply.text == said(pieces, stops)[1]
    assert reply.text.startswith(decoded([pieces[token - 1000] for token in reply.tokens], final=True))
