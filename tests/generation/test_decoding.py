from support.tiny import make_byte_tokenizer
from tokenizers import pre_tokenizers

from helpers.generation.decoding import BYTE_OF, TextStream, read_bytes


def stream_bytes(text, leave_out=0):
    """The pieces that come out if a model writes `text` byte by byte, without the last `leave_out` bytes."""
    pieces = []
    tokenizer = make_byte_tokenizer()
    stream = TextStream(tokenizer, [], lambda piece: pieces.append(piece.text))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for number in ids[: len(ids) - leave_out]:
        stream.push(number)
    stream.finish()
    return pieces


def test_no_piece_ends_inside_a_character():
    text = "naïve 東京 🙂 end"
    assert stream_bytes(text) == list(text)


def test_half_character_at_the_length_limit_is_left_out():
    assert "".join(stream_bytes("ok🙂", leave_out=2)) == "ok"


def test_byte_table_has_the_alphabet_of_the_tokenizers_library():
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF.values()) == list(range(256))


def test_byte_table_agrees_with_the_tokenizers_library():
    text = "".join(chr(number) for number in [*range(0x800), 0x1F642, *range(0x1000, 0xD800, 64)])
    (written, _), *others = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    ).pre_tokenize_str(text)
    assert others == []
    assert bytes(BYTE_OF[character] for character in written) == text.encode()


def test_bytes_that_occur_in_no_text_stay_themselves():
    absent = [0xC0, 0xC1, *range(0xF5, 0x100)]  # from UTF-8; all of them print in Latin-1
    assert [BYTE_OF[chr(byte)] for byte in absent] == absent


def test_tokens_of_a_byte_vocabulary_have_their_bytes():
    tokenizer = make_byte_tokenizer()
    ids = tokenizer("é €", add_special_tokens=False)["input_ids"]
    assert [read_bytes(tokenizer, number) for number in ids] == [bytes([byte]) for byte in "é €".encode()]
    assert read_bytes(tokenizer, tokenizer.eos_token_id) == tokenizer.eos_token.encode()


def test_id_without_a_token_has_no_bytes():
    assert read_bytes(make_byte_tokenizer(), 259) == b""  # vocabularies are rounded up
