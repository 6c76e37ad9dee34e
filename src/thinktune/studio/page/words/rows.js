// Words of the rows screen.

export const en = {
  title: 'Rows',
};

export const zh = {
  title: '数据',
};
