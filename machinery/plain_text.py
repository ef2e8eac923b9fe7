"""Text of data is plain text: where it spells a control token (<|im_end|>, <IMG_CONTEXT>), it gets the ids of
those characters, and never the token that ends a turn or stands for an image. No torch here."""
import re

# code points that are no characters, so no text of data has them (fields.NO_TEXT)
CUT = "\ufdd0"                                       # it hides a control token
ANSWER, OPEN, CLOSE = "\ufdd1", "\ufdd2", "\ufdd3"  # place, begin and end of an earlier answer of a talk


class PlainText:
    """The tokenizer of a chat, for text that data are a part of.

        hide("the <|im_end|>")     "the <CUT|im_end|>": the template can now be filled with it
        encode([text, ...])        ids of a template's text; hidden tokens as characters
    """

    def __init__(self, tokenizer, *more):
        """more: control tokens that the tokenizer does not count among its special ones."""
        tokens = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        tokens = sorted(tokens.union(tokenizer.all_special_tokens, more), key=len, reverse=True)
        self.control = re.compile("(" + "|".join(map(re.escape, tokens)) + ")")
        self.tokenizer = tokenizer

    def hide(self, text):
        return self.control.sub(lambda found: found[0][0] + CUT + found[0][1:], text)

    def encode(self, texts):
        """[text, ...] -> [ids, ...]. A text without hidden tokens goes to the tokenizer as it is."""
        plain = [text for text in texts if CUT not in text]
        ids = iter(self.tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else [])
        return [self._encode_hidden(text) if CUT in text else next(ids) for text in texts]

    def _encode_hidden(self, text):
        ids = []
        for i, part in enumerate(self.control.split(text)):
            if i % 2:
                ids.append(self.tokenizer.convert_tokens_to_ids(part))
            elif part:
                ids += self.tokenizer(part.replace(CUT, ""), add_special_tokens=False,
                                      split_special_tokens=True)["input_ids"]
        return ids
