// Words of the take-home screen.

export const en = {
  title: 'Take home',
};

export const zh = {
  title: '带走',
};
