"""What becomes of personal data in documents, kind by kind: the key `personal_data` of a corpus file."""

from dataclasses import dataclass
from typing import Literal, get_args

from headrace.errors import InvalidInput

Kind = Literal["secret", "email", "iban", "card", "ip", "phone"]
# In this order: what an earlier one has found is no later one's.
KINDS: tuple[Kind, ...] = get_args(Kind)
Treatment = Literal["mask", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class PersonalData:
    """What becomes of each kind: `mask` puts a placeholder (`<EMAIL>`) in its place, `drop` drops the document by the
    rule `personal_data_<kind>`, `keep` does not look for it."""

    email: Treatment = "mask"
    """Addresses for mail."""
    phone: Treatment = "mask"
    """Telephone numbers with + and country code, and those of `phone_regions` without."""
    card: Treatment = "mask"
    """Numbers of payment cards: a network's beginning and length, and Luhn's checksum."""
    iban: Treatment = "mask"
    """Numbers of bank accounts: their country's length and form, and the checksum."""
    ip: Treatment = "mask"
    """Public addresses of machines, IPv4 and IPv6; versions, sections and private addresses stay."""
    secret: Treatment = "mask"
    """Keys and tokens of AWS, GitHub, GitLab, Slack, Google, OpenAI, Anthropic, Stripe and others, private keys, JSON
    Web Tokens, and passwords in URLs."""
    phone_regions: tuple[str, ...] = ()
    """Countries (`US`, `CN`) whose telephone numbers are found as they are written there; a number of ten digits that
    is something else may be taken for one."""
    number_placeholders: bool = False
    """Whether placeholders tell one value from another within a document: `<EMAIL_1>`, `<EMAIL_2>`."""

    def __post_init__(self) -> None:
        if not self.looked_for:
            raise InvalidInput("personal_data keeps every kind; remove the key to look for none.")
        if not self.phone_regions:
            return
        from phonenumbers import SUPPORTED_REGIONS

        if unknown := [region for region in self.phone_regions if region not in SUPPORTED_REGIONS]:
            raise InvalidInput(f"phone_regions must name countries by codes such as US, DE, CN, got {unknown[0]!r}.")

    def treatment(self, kind: Kind) -> Treatment:
        return getattr(self, kind)

    @property
    def looked_for(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if self.treatment(kind) != "keep")

    @property
    def masks(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if self.treatment(kind) == "mask")

    @property
    def drops(self) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if self.treatment(kind) == "drop")


def found_column(kind: Kind) -> str:
    """The column that counts how often a document holds the kind."""
    return f"personal_data_{kind}"
