"""What makers state about the cards that people own and rent."""

from dataclasses import dataclass

MIN_BF16_CAPABILITY = (8, 0)  # the first tensor cores of NVIDIA's that multiply bf16
MIN_CUDA_13_CAPABILITY = (7, 5)  # CUDA 13 compiles for nothing older


@dataclass(frozen=True, slots=True)
class CardSheet:
    """A card's sheet: GiB as its driver reports them, dense TFLOP/s without sparsity, and GB/s.

    `bf16_tflops` accumulate in fp32 and are None where nobody has looked them up; where tensor cores multiply no bf16,
    they are those of fp32, which such products are computed in. `fp8_tflops` is None for a card without fp8.
    `link_gb_per_second` leads to the host in one direction (PCIe, as built), `peer_gb_per_second` to the other cards of
    the machine (NVLink); None: by way of the host.
    """

    gib: float
    bf16_tflops: float | None
    memory_gb_per_second: float
    link_gb_per_second: float
    capability: tuple[int, int]
    fp8_tflops: float | None = None
    peer_gb_per_second: float | None = None

    @property
    def multiplies_bf16(self) -> bool:
        """True where tensor cores multiply bf16."""
        return self.capability >= MIN_BF16_CAPABILITY


# GeForce's bf16 is an eighth (Ada) or a sixteenth (Blackwell) of the "AI TOPS" on its page, which are sparse fp8 and
# sparse fp4; the architectures' papers list the same figures with accumulation in fp32. Of all cards that a name may
# mean, a plan takes the one with the shortest name: of one name, the smallest.
CARD_SHEETS: dict[str, CardSheet] = {
    "B200": CardSheet(179.1, 2250.0, 8000, 55, (10, 0), 4500.0, 900),
    "H200": CardSheet(140.4, 989.0, 4800, 55, (9, 0), 1979.0, 450),
    "H200 NVL": CardSheet(140.4, 835.0, 4800, 55, (9, 0), 1671.0, 450),
    "H100": CardSheet(79.6, 989.0, 3350, 55, (9, 0), 1979.0, 450),
    "H100 NVL": CardSheet(93.6, 835.0, 3900, 55, (9, 0), 1671.0, 300),
    "H100 PCIe": CardSheet(79.6, 756.0, 2000, 55, (9, 0), 1513.0),
    "H800": CardSheet(79.6, 989.0, 3350, 55, (9, 0), 1979.0, 200),
    "H20": CardSheet(95.6, 148.0, 4000, 55, (9, 0), 296.0, 450),
    "A100": CardSheet(40.0, 312.0, 1555, 25, (8, 0), None, 300),
    "A100 40GB": CardSheet(40.0, 312.0, 1555, 25, (8, 0), None, 300),
    "A100 80GB": CardSheet(80.0, 312.0, 2039, 25, (8, 0), None, 300),
    "A800": CardSheet(80.0, 312.0, 2039, 25, (8, 0), None, 200),
    "A30": CardSheet(24.0, 165.0, 933, 25, (8, 0)),
    "A10": CardSheet(22.5, 125.0, 600, 25, (8, 6)),
    "A10G": CardSheet(22.5, 70.0, 600, 25, (8, 6)),
    "A40": CardSheet(44.9, 149.7, 696, 25, (8, 6)),
    "L4": CardSheet(22.5, 121.0, 300, 25, (8, 9), 242.0),
    "L20": CardSheet(44.9, 119.5, 864, 25, (8, 9), 239.0),
    "L40": CardSheet(44.9, 181.0, 864, 25, (8, 9), 362.0),
    "L40S": CardSheet(44.9, 362.0, 864, 25, (8, 9), 733.0),
    "V100": CardSheet(15.8, 15.7, 900, 12, (7, 0), None, 150),
    "V100 32GB": CardSheet(31.7, 15.7, 900, 12, (7, 0), None, 150),
    "T4": CardSheet(14.6, 8.1, 320, 12, (7, 5)),
    "RTX 5090": CardSheet(31.8, 209.5, 1792, 55, (12, 0), 419.0),
    "RTX 5090 D": CardSheet(31.8, 148.4, 1792, 55, (12, 0), 296.9),
    "RTX 5080": CardSheet(15.9, 112.6, 960, 55, (12, 0), 225.1),
    "RTX 4090": CardSheet(24.0, 165.2, 1008, 25, (8, 9), 330.3),
    "RTX 4090 D": CardSheet(24.0, 147.1, 1008, 25, (8, 9), 294.2),
    "RTX 4080": CardSheet(16.0, 97.5, 716.8, 25, (8, 9), 194.9),
    "RTX 4080 SUPER": CardSheet(16.0, 104.4, 736, 25, (8, 9), 208.9),
    "RTX 4060": CardSheet(8.0, None, 272, 12, (8, 9)),
    "RTX 3090": CardSheet(24.0, 71.0, 936, 25, (8, 6)),
    "RTX 3090 Ti": CardSheet(24.0, 80.0, 1008, 25, (8, 6)),
    "RTX 3080": CardSheet(10.0, 59.5, 760, 25, (8, 6)),
    "RTX 3080 Ti": CardSheet(12.0, 68.2, 912, 25, (8, 6)),
    "RTX 3060": CardSheet(12.0, None, 360, 25, (8, 6)),
    "RTX 2080 Ti": CardSheet(11.0, 13.4, 616, 12, (7, 5)),
    "RTX 6000 Ada": CardSheet(48.0, 182.1, 960, 25, (8, 9), 364.2),
    "RTX A6000": CardSheet(48.0, 154.8, 768, 25, (8, 6)),
}

# Words that make a driver's name another card, unless the sheet's name has them.
VARIANT_WORDS = {"laptop", "mobile", "max", "ti", "super", "d", "ada", "sff"}

# Accelerators that people ask about and that are no CUDA cards, by a part of their name, with their makers.
OTHER_ACCELERATORS = {
    **dict.fromkeys(("910", "ascend", "昇腾"), "Huawei Ascend"),
    **dict.fromkeys(("mi250", "mi300", "mi325", "mi355", "radeon", "xtx"), "AMD"),
    **dict.fromkeys(("mlu", "寒武纪"), "Cambricon"),
}
