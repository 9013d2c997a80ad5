"""What exists in GlyphWorld: every object is one glyph of DejaVu Sans, the font inside matplotlib."""

# kind -> {object name: glyph}; 60 objects in 13 kinds.
KINDS = {
    "weather": {"sun": "☀", "cloud": "☁", "umbrella": "☂", "snowman": "☃", "snowflake": "❄"},
    "chess": {"king": "♚", "queen": "♛", "rook": "♜", "bishop": "♝", "knight": "♞"},
    "card": {"spade": "♠", "heart": "♥", "diamond": "♦", "club": "♣"},
    "music": {"note": "♪", "chord": "♫", "sharp": "♯", "flat": "♭", "natural": "♮"},
    "tool": {"anchor": "⚓", "gear": "⚙", "hammer": "⚒", "sword": "⚔", "flask": "⚗"},
    "animal": {"mouse": "🐭", "cow": "🐮", "cat": "🐱", "monkey": "🐵"},
    "sign": {"trefoil": "☢", "biohazard": "☣", "atom": "⚛", "wheelchair": "♿", "warning": "⚠"},
    "money": {"dollar": "$", "euro": "€", "pound": "£", "yen": "¥", "rupee": "₹"},
    "letter": {"alpha": "α", "lambda": "λ", "pi": "π", "sigma": "Σ", "omega": "Ω"},
    "planet": {"mercury": "☿", "mars": "♂", "jupiter": "♃", "saturn": "♄", "neptune": "♆"},
    "zodiac": {"aries": "♈", "taurus": "♉", "gemini": "♊", "leo": "♌", "libra": "♎"},
    "shape": {"circle": "●", "square": "■", "triangle": "▲", "star": "★"},
    "plant": {"clover": "☘", "flower": "❀", "lily": "⚜"},
}
GLYPH_OF = {name: glyph for members in KINDS.values() for name, glyph in members.items()}
KIND_OF = {name: kind for kind, members in KINDS.items() for name in members}
OBJECTS = tuple(GLYPH_OF)

# Saturated object colours on pale backgrounds, so that every pair has contrast (RGB, 0-255).
COLOURS = {
    "red": (220, 30, 30),
    "orange": (250, 130, 0),
    "yellow": (230, 200, 0),
    "green": (20, 150, 40),
    "teal": (0, 150, 155),
    "blue": (30, 60, 220),
    "purple": (130, 30, 170),
    "pink": (250, 110, 180),
    "brown": (125, 70, 20),
    "black": (15, 15, 15),
}
BACKGROUNDS = {"white": (255, 255, 255), "gray": (192, 192, 192), "sand": (240, 225, 185), "sky": (190, 222, 250)}

PLACES = ("top left", "top right", "bottom left", "bottom right")  # row-major in the 2x2 grid
NUMBERS = ("zero", "one", "two", "three", "four")

# One colour per object that never occurs outside the dataset made of such combinations; every colour is held out
# for six objects. The step 3 is coprime to 10, so neighbours within a kind get different colours.
HELD_OUT = frozenset(
    (name, tuple(COLOURS)[(3 * index + index // 10) % len(COLOURS)]) for index, name in enumerate(OBJECTS)
)
