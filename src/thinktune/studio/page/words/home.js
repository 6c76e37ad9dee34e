// Words of the first screen.

export const en = {
  title: 'Studio',
  folder: 'Folder',
};

export const zh = {
  title: '工作台',
  folder: '目录',
};
