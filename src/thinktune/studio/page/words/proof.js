// Words of the proof screen.

export const en = {
  title: 'Proof',
};

export const zh = {
  title: '评测',
};
