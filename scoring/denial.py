"""Does a text claim that the image is not there, or that it cannot be seen? (paper section 6)

Every word is of a kind, and a claim is a sequence of kinds. There will be misses: of the sentences in
tests/cases 96% of the claims are found, and nothing else.
"""
import re

# words, Chinese characters -> a letter: "I cannot see the image, so ..." is WNSDM,C...
_KINDS = {
    "M": "image images picture pictures photo figure diagram graph chart drawing attachment 图 片 照 像 形",
    "D": "the this your a an any actual 这 里 道 题 目 中 的 张 幅 附 配 您",
    "W": "i i'm i'll we 我",
    "N": "not no cannot unable lack blind failed 没 未 不 无",  # and what ends in n't
    "S": "see seeing seen view viewing access have having had is was has be been being able ability to of at "
         "or actually directly means way visual perceive look analyze could seems itself "
         "看 到 见 有 能 法 查 直 接 收 打 开",
    "T": "provided attached included visible available here accessible load loaded loading displayed given "
         "shown upload uploaded share shared send provide describe include open with "
         "提 供 给 出 来 显 示 传 加 载",
    "U": "missing inaccessible unavailable 缺 失",
    "C": "so but because and since unfortunately 所 因 为 由 于 只 可",
    "O": "question problem prompt message text conversation user you me",
    "I": "it it's", "X": "without", "H": "there there's", "F": "if wish please 请", "P": "in on from for 上",
    ",": ", ( ) ，"}
_KIND = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_CLAIMS = (
    "(W.{,3}|^D*|C|,)S*N[DSTC]*[ST]IMAGE",             # I cannot see the image
    "FW.?[SD]*SIMAGE",                                 # if I could see the image
    "(^|[^PSDM])D*M+T?S*(N[SP]*T+|U+T*)END",           # the image is not provided
    "ND*M+S*T+END|HS?NIMAGE",                          # no image is provided, there is no image
    "F.{,3}T+IMAGE|O.?N.?TS*IMAGE",                    # please send the image, you did not upload the image
    "M.*(WN[ST]+I|IS*NT+END)|M+WSNS",                  # a picture is mentioned, but I cannot see it
    "X([SD]*S)?D*M,?W|X[SD]*SIMAGE|[N.].*XD*M$")       # without the image I cannot tell
_IMAGE = "D*M+T*END"                                   # as a whole: not the image of A, not a picture book
_END = r"(?=S*$|[,CO]|SD?O|[PT].{,2}O)"
_CLAIM = re.compile("|".join(_CLAIMS).replace("IMAGE", _IMAGE).replace("END", _END))


def denies_image(text):
    """In English or Chinese. The claim must be about the image as a whole and about the speaker: "the image
    does not show the radius", "the driver cannot see the picture", "图中没有给出半径" are none."""
    for sentence in re.findall(r"[^.!?\n;。！？；]{1,300}", text.lower().replace("’", "'")):
        words = re.findall(r"[a-z0-9_'-]+|\S", sentence)
        kinds = "".join(_KIND.get(word, "N" if word.endswith("n't") else ".") for word in words)
        if "M" in kinds and _CLAIM.search(kinds):
            return True
    return False
