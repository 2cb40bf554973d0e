"""Word lists of the lexical guards: small, general English, one meaning a list."""

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, frozenset[str]]:
    table: dict[str, set[str]] = {}
    for line in text.split():
        left, right = line.split("/")
        table.setdefault(left, set()).add(right)
        table.setdefault(right, set()).add(left)
    return {word: frozenset(others) for word, others in table.items()}


NEGATORS: Final = _words(
    "not no never none nothing nobody nowhere neither nor without cannot unable except unless hardly "
    "nicht nie niemals kein keine keinen keinem keiner ohne pas jamais sans aucun aucune nunca sin ningún ninguna "
    "non senza não sem niet geen nooit zonder"
)
"""English, and the commonest of six languages around it; of two that go together (ne … pas) only one."""

CONTRACTIONS: Final = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "ain't": "is not",
    "let's": "let us",
    "dont": "do not",
    "doesnt": "does not",
    "didnt": "did not",
    "isnt": "is not",
    "wasnt": "was not",
    "cant": "can not",
    "wont": "will not",
    "couldnt": "could not",
    "wouldnt": "would not",
    "shouldnt": "should not",
    "havent": "have not",
    "hasnt": "has not",
    "arent": "are not",
    "im": "i am",
    "ive": "i have",
    "whats": "what is",
    "wheres": "where is",
    "gonna": "going to",
    "wanna": "want to",
}

ENDINGS: Final = (
    ("n't", " not"),
    ("'re", " are"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'m", " am"),
    ("'d", " would"),
)

IS_BEFORE_S: Final = _words("what where who how when why that there it he she this here everything something nothing")
"""After these ``'s`` is a verb; after other words it is a possessive and says nothing."""

NUMBER_WORDS: Final = {
    word: str(number)
    for number, word in enumerate(
        (
            "zero",
            "",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        )
    )
    if word
} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
    "billion": "1000000000",
    "dozen": "12",
    "half": "0.5",
    "third": "3",
    "fourth": "4",
    "fifth": "5",
    "twice": "2",
    "double": "2",
    "triple": "3",
}
""""one", "first" and "second" are left out: they are more often pronouns and particles than amounts."""

UNITS: Final = {
    name: unit
    for unit, names in {
        "usd": "$ usd dollar dollars bucks",
        "eur": "€ eur euro euros",
        "gbp": "£ gbp sterling quid",
        "pound": "pound pounds lb lbs",
        "jpy": "¥ jpy yen",
        "inr": "₹ inr rupee rupees",
        "chf": "chf franc francs",
        "cny": "cny yuan renminbi",
        "aud": "aud",
        "cad": "cad",
        "btc": "btc bitcoin",
        "cent": "cent cents",
        "%": "% percent",
        "kg": "kg kilo kilos kilogram kilograms",
        "g": "gram grams",
        "mg": "mg milligram milligrams",
        "oz": "oz ounce ounces",
        "km": "km kilometer kilometers kilometre kilometres",
        "m": "meter meters metre metres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "mm": "mm millimeter millimeters",
        "mi": "mile miles",
        "ft": "ft feet",
        "in": "inch inches",
        "l": "liter liters litre litres",
        "ml": "ml milliliter milliliters",
        "gal": "gallon gallons",
        "s": "sec seconds",
        "min": "min mins minute minutes",
        "h": "hr hrs hour hours",
        "day": "days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years",
        "kb": "kb kilobyte kilobytes",
        "mb": "mb megabyte megabytes",
        "gb": "gb gigabyte gigabytes",
        "tb": "tb terabyte terabytes",
        "c": "celsius °c",
        "f": "fahrenheit °f",
        "am": "am a.m",
        "pm": "pm p.m",
    }.items()
    for name in names.split()
}

DATES: Final = _words(
    "today tomorrow yesterday tonight now monday tuesday wednesday thursday friday saturday sunday weekday weekend "
    "january february march april june july august september october november december jan feb mar apr jun jul aug "
    "sep sept oct nov dec spring summer autumn fall winter morning afternoon evening noon midnight last next "
    "previous current daily weekly monthly quarterly yearly annual annually quarter christmas easter"
)
"""``may`` is left out: it is a verb."""

ANTONYMS: Final = _pairs(
    """
    enable/disable activate/deactivate on/off open/close open/shut start/stop begin/end start/finish add/remove
    insert/delete insert/remove add/delete create/delete create/destroy increase/decrease raise/lower increase/reduce
    more/less more/fewer most/least maximum/minimum max/min highest/lowest higher/lower high/low upper/lower
    up/down above/below over/under big/small large/small long/short tall/short wide/narrow thick/thin deep/shallow
    heavy/light fast/slow quick/slow quickly/slowly hot/cold warm/cool old/new old/young early/late before/after
    first/last win/lose buy/sell borrow/lend send/receive give/take push/pull import/export upload/download
    accept/reject accept/decline allow/deny allow/block allow/forbid grant/revoke approve/reject lock/unlock
    freeze/unfreeze block/unblock pass/fail success/failure successful/unsuccessful true/false right/wrong
    correct/incorrect valid/invalid good/bad better/worse best/worst safe/dangerous safe/unsafe easy/hard
    easy/difficult simple/complex cheap/expensive rich/poor strong/weak hard/soft clean/dirty full/empty
    wet/dry light/dark day/night male/female man/woman men/women boy/girl
    mother/father brother/sister son/daughter husband/wife
    love/hate like/dislike happy/sad happy/unhappy legal/illegal possible/impossible always/never everyone/nobody
    all/none with/without include/exclude in/out inside/outside within/outside
    in/outside front/back left/right top/bottom north/south
    east/west public/private internal/external input/output encrypt/decrypt compress/decompress login/logout
    connect/disconnect attach/detach install/uninstall subscribe/unsubscribe follow/unfollow mute/unmute
    show/hide visible/hidden deposit/withdraw deposit/withdrawal debit/credit debtor/creditor savings/checking
    income/expense profit/loss gain/loss gain/lose asset/liability gross/net fixed/variable arrive/depart
    arrival/departure arrivals/departures incoming/outgoing inbound/outbound remember/forget agree/disagree
    appear/disappear physical/virtual real/fake absolute/relative ascending/descending asc/desc horizontal/vertical
    positive/negative plus/minus add/subtract multiply/divide read/write get/set sync/async even/odd even/uneven
    domestic/international local/remote local/global temporary/permanent optional/required mandatory/optional
    alive/dead asleep/awake sleep/wake lend/borrow employer/employee seller/buyer sender/recipient lender/borrower
    teacher/student parent/child major/minor same/different similar/different similarity/difference
    advantage/disadvantage advantages/disadvantages pros/cons cause/cure wake/sleep build/destroy keep/discard
    save/spend save/delete show/conceal improve/worsen expand/shrink expand/collapse ally/enemy friend/enemy
    vegetarian/meat breakfast/dinner lunch/dinner here/there came/went come/go to/from
    """
)

FILLER: Final = _words(
    "hello hi hey dear greetings please pls plz kindly thanks thank thx cheers ok okay well so just really actually "
    "basically quick question advance sir madam team guys everyone siri alexa um uh also maybe perhaps possibly "
    "simply exactly"
)
"""Words that greet, thank or hedge; leaving one out changes no question."""

FUNCTION: Final = _words(
    "a an the of for to in on at by with from into onto about as and or but if then than that this these those "
    "there here it its i me my mine we us our ours you your yours he him his she her hers they them their theirs "
    "one ones who whom whose which what where when why how is am are was were be been being do does did done doing "
    "have has "
    "had having can could will would shall should may might must let need want like know tell get got give go going "
    "any some such each every other another much many lot very too still yet again ever possible help way "
    "able"
)
"""Words whose replacement by another of these seldom changes what is asked."""

SYNONYMS: Final = (
    "begin start commence",
    "buy purchase",
    "big large huge",
    "small little tiny",
    "fix repair resolve solve",
    "change modify alter edit update",
    "find locate",
    "show display",
    "make create produce generate",
    "job career",
    "quick fast rapid quickly",
    "obtain acquire receive get",
    "explain describe",
    "answer reply respond response",
    "remove delete erase",
    "end finish complete",
    "learn study",
    "choose select pick",
    "wrong incorrect",
    "correct right",
    "movie film",
    "phone mobile cellphone",
    "car vehicle automobile",
    "doctor physician",
    "kid child",
    "kids children",
    "photo picture image",
    "cost price charge",
    "cancel revoke",
    "verify confirm check validate",
    "identity id identification",
    "error mistake problem issue trouble",
    "broken damaged faulty",
    "lost missing misplaced",
    "order request",
    "top best",
    "person someone somebody people",
    "improve increase enhance",
    "difference distinction",
    "meaning definition",
    "way method",
    "use utilize using",
    "working functioning",
    "declined rejected refused",
    "shipped delivered sent",
    "money funds cash",
    "work function operate",
    "earn make",
    "reason cause",
    "stop quit",
    "important essential",
)
