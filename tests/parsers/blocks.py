"""What the tests of every parser ask of its blocks."""

from ragqueue.types import Parsed


def assert_exact(parsed: Parsed) -> None:
    """Check that blocks rise, lie in the text, and begin and end with something to see."""
    end = 0
    for block in parsed.blocks:
        assert end <= block.start < block.end <= len(parsed.text)
        text = parsed.text[block.start : block.end]
        assert text.strip()
        assert text == text.rstrip()
        assert all(heading.strip() for heading in block.heading_path)
        end = block.end


def shown(parsed: Parsed) -> list[tuple[str, str]]:
    """Return kind and text of each block."""
    return [(block.kind, parsed.text[block.start : block.end]) for block in parsed.blocks]
