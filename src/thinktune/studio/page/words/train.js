// Words of the train screen.

export const en = {
  title: 'Train',
};

export const zh = {
  title: '训练',
};
